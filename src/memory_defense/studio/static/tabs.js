// Tabs after the ARIA pattern: arrow keys, Home and End move, and the panel follows.

import { byId } from "./dom.js";

export const TABS = ["play", "compare", "records"];
let shown = TABS[0];
let changed = () => {};

export function shownTab() {
  return shown;
}

export function showTab(name, focus = false) {
  shown = name;
  for (const tab of TABS) {
    const button = byId(`tab-${tab}`);
    button.setAttribute("aria-selected", String(tab === name));
    button.tabIndex = tab === name ? 0 : -1;
    byId(`panel-${tab}`).hidden = tab !== name;
  }
  byId("work").hidden = name === "records";
  if (focus) byId(`tab-${name}`).focus();
  changed(name);
}

export function startTabs(told) {
  changed = told;
  TABS.forEach((tab, place) => {
    const button = byId(`tab-${tab}`);
    button.addEventListener("click", () => showTab(tab));
    button.addEventListener("keydown", (event) => {
      const steps = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: TABS.length - 1 };
      if (!(event.key in steps)) return;
      event.preventDefault();
      showTab(TABS[(steps[event.key] + TABS.length) % TABS.length], true);
    });
  });
}
