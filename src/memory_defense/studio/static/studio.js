// The studio's page: choose on the left, watch on the right.

import { get } from "./api.js";
import { offerOthers, refreshCompare, startCompare } from "./compare.js";
import { byId } from "./dom.js";
import { startPicker } from "./picker.js";
import { refreshPlay, showPrepared } from "./play.js";
import { refreshRecords } from "./records.js";
import { chooseRun, offerShelf, startSetup } from "./setup.js";
import { onChange, runOf, state } from "./state.js";
import { shownTab, startTabs } from "./tabs.js";
import { leaveTour, startTour } from "./tour.js";

function trouble(text) {
  byId("trouble").textContent = text;
  byId("trouble").hidden = !text;
}

function tell(text, kind) {
  byId("told").textContent = text;
  byId("told").className = `told ${kind}`;
}

function refresh() {
  if (shownTab() === "play") refreshPlay(tell);
  if (shownTab() === "compare") refreshCompare(tell);
}

window.addEventListener("unhandledrejection", (event) => trouble(event.reason?.message ?? String(event.reason)));

startTabs((name) => {
  if (name !== "play") leaveTour();
  if (name === "records") refreshRecords();
  else refresh();
});
startSetup();
startPicker(trouble);
startCompare(refresh);
startTour();
onChange((changes) => {
  if (changes.run) byId("colour").hidden = runOf(changes.run).channels === 1;
  if (changes.described) {
    trouble("");
    offerOthers();
  }
  if (!state.image && state.described) {
    tell(state.described.test_images ? "Choose a test image, upload one or draw one." : "Upload an image or draw one.", "");
  }
  refresh();
});

try {
  const shelf = await get("/api/studio");
  if (offerShelf(shelf)) {
    const loading = chooseRun(byId("run").value, shelf.opening);
    if (shelf.opening) showPrepared(shelf.opening.played, tell);
    await loading;
  } else tell("There is no finished model here. Make one with 'memdef demo' or 'memdef train', then reload.", "trouble");
} catch (error) {
  trouble(error.message);
  tell("This model cannot be used; choose another.", "trouble");
}
