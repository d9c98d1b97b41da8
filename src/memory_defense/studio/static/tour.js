// Four steps for somebody who sees the studio for the first time. It opens once, and again with the button Tour.

import { byId } from "./dom.js";
import { shownTab, showTab } from "./tabs.js";

const KEPT = "memdef-studio-tour";

/** Where each step looks: a tab, and the first of these elements that is there. */
const STEPS = [
  {
    title: "An attack that works",
    text: "Below are a picture that the model names correctly, and the same picture after an attack: almost the same, yet the model gives another answer. The coloured sentence says what happened.",
    at: ["told"],
  },
  {
    title: "What the attack went for",
    text: "The model answers in two stages, the selector and a slot; this box says what they are. In the charts below it, blue bars belong to the clean picture and orange ones to the attacked picture.",
    at: ["meaning", "told"],
  },
  {
    title: "Try it yourself",
    text: "Move the slider to let the attack change more or less. Choose another picture under Image, or upload or draw one; choose another method under Attack. The answer follows at once.",
    at: ["setup"],
  },
  {
    title: "Flags, comparisons, records",
    text: "Model says when a picture is flagged as suspicious. Compare attacks two models on one picture. Records shows what 'memdef evaluate' found, also for classifiers of your own.",
    at: ["tabs"],
  },
];

let step = 0;

export function startTour() {
  byId("tour-start").addEventListener("click", () => open(true));
  byId("tour-next").addEventListener("click", () => (step === STEPS.length - 1 ? close() : move(step + 1)));
  byId("tour-back").addEventListener("click", () => move(step - 1));
  byId("tour-close").addEventListener("click", close);
  byId("tour").addEventListener("keydown", (event) => event.key === "Escape" && close());
  if (!remembered()) open(false); // the page keeps the focus: nobody asked for the tour
}

function open(asked) {
  byId("tour").hidden = false;
  step = 0;
  fill();
  if (asked) look();
}

function move(to) {
  step = to;
  fill();
  look();
}

function close() {
  byId("tour").hidden = true;
  delete document.body.dataset.tour;
  remember();
  byId("tour-start").focus();
}

function fill() {
  const { title, text } = STEPS[step];
  byId("tour-title").textContent = `${step + 1} of ${STEPS.length}: ${title}`;
  byId("tour-text").textContent = text;
  byId("tour-back").hidden = step === 0;
  byId("tour-next").textContent = step === STEPS.length - 1 ? "Done" : "Next";
  document.body.dataset.tour = String(step + 1);
}

/** Bring what a step is about onto the screen and its text to whoever listens. */
function look() {
  if (shownTab() !== "play") showTab("play");
  const found = STEPS[step].at.map(byId).find((one) => one && one.offsetParent);
  found?.scrollIntoView({ block: "start" });
  byId("tour-title").focus({ preventScroll: true });
}

function remembered() {
  try {
    return localStorage.getItem(KEPT) === "seen";
  } catch {
    return false; // a browser that keeps nothing
  }
}

function remember() {
  try {
    localStorage.setItem(KEPT, "seen");
  } catch {
    // it opens again next time
  }
}
