// Defense, attack, knowledge, norm and epsilon.

import { get } from "./api.js";
import { byId, group, make, offer } from "./dom.js";
import { choose, onChange, runOf, state } from "./state.js";

const RANGES = {
  linf: { most: 0.3, step: 0.002, start: 0.1, marks: [[0, "0"], [9 / 255, "9/255"], [0.1, "0.1"], [0.2, "0.2"], [0.3, "0.3"]] },
  l2: { most: 5, step: 0.05, start: 1.5, marks: [[0, "0"], [0.5, "0.5"], [1.5, "1.5"], [3, "3"], [5, "5"]] },
};

const NARROW = "(max-width: 58rem)";

export function startSetup() {
  for (const card of ["defense-card", "image-card", "attack-card"]) {
    byId(card).open = !window.matchMedia(NARROW).matches;
  }
  onChange(() => {
    byId("defense-summary").textContent = state.run ?? "";
    byId("image-summary").textContent = imageSummary();
    byId("attack-summary").textContent = `${state.attack}, ${state.knowledge}`;
  });
  byId("run").addEventListener("change", (event) => chooseRun(event.target.value));
  byId("attack").addEventListener("change", (event) => chooseAttack(event.target.value));
  byId("knowledge").addEventListener("change", (event) => {
    choose({ knowledge: event.target.value });
    tellKnowledge();
  });
  byId("norm").addEventListener("change", (event) => chooseNorm(event.target.value));
  byId("label").addEventListener("change", (event) => choose({ label: event.target.value }));
  byId("epsilon").addEventListener("input", (event) => setEpsilon(Number(event.target.value)));
}

function imageSummary() {
  if (!state.image) return "none yet";
  return state.image.pixels === undefined ? `test image ${state.image.test}` : "a picture of your own";
}

/** Show what there is to choose; return whether any run can be played with. */
export function offerShelf(shelf) {
  state.shelf = shelf;
  offer(
    byId("run"),
    shelf.runs.map((run) => [run.name, run.fault ? `${run.name} (cannot be used)` : run.name, Boolean(run.fault)]),
    shelf.first,
  );
  const shipped = shelf.runs.filter((run) => run.shipped).length;
  if (shipped) group(byId("run"), [["Yours", shelf.runs.length - shipped], ["Come with the package", shipped]]);
  offer(byId("attack"), shelf.attacks.map((attack) => [attack.name, attack.name]), state.attack);
  const faults = shelf.runs.filter((run) => run.fault).map((run) => run.fault);
  byId("run-faults").textContent = faults.length ? `Cannot be used: ${faults.join(". ")}.` : "";
  chooseNorm(state.norm, false);
  chooseAttack(byId("attack").value);
  return byId("run").value !== "";
}

/** Load a run; `example` is what was prepared for it, which the page has shown already. */
export async function chooseRun(name, example = null) {
  const before = runOf(state.run);
  choose({ run: name, described: null });
  byId("run").value = name;
  const results = byId("results");
  results.setAttribute("aria-busy", "true");
  const described = await get("/api/run", { run: name }).finally(() => {
    if (state.run === name) results.removeAttribute("aria-busy");
  });
  if (state.run !== name) return;
  const run = runOf(name);
  byId("run-note").textContent = [`Trained on ${run.dataset} by the recipe ${run.recipe}.`, described.flag].join(" ");
  offerKnowledge(described.knowledge);
  const same = before && before.images === run.images;
  offer(byId("label"), labels(run), same ? state.label : "");
  choose({
    described,
    knowledge: byId("knowledge").value,
    label: byId("label").value,
    ...(same ? {} : { image: firstImage(described, example) }),
  });
  tellKnowledge();
}

function firstImage(described, example) {
  if (described.test_images) return { test: example ? example.test : 0 };
  return example ? { pixels: example.pixels } : null;
}

/** Automatic is the class as the dataset has it; for a picture of one's own, what the defense says. */
function labels(run) {
  return [["", "automatic"], ...run.classes.map((name, place) => [place, name])];
}

function offerKnowledge(knowledge) {
  const plain = knowledge.filter((one) => !one.adaptive);
  const adaptive = knowledge.filter((one) => one.adaptive);
  offer(byId("knowledge"), [...plain, ...adaptive].map((one) => [one.name, one.label]), state.knowledge);
  const headings = [["General", plain.length], ["Adaptive: made for attacking this model", adaptive.length]];
  if (adaptive.length) group(byId("knowledge"), headings);
}

function tellKnowledge() {
  const known = state.described?.knowledge.find((one) => one.name === state.knowledge);
  const parts = known ? [known.adaptive && "Adaptive.", known.meaning] : [];
  if (known && !known.methods.includes(state.attack)) parts.push(`It needs ${known.needs}.`);
  byId("knowledge-note").textContent = parts.filter(Boolean).join(" ");
}

function attackView(name) {
  return state.shelf.attacks.find((attack) => attack.name === name);
}

function chooseAttack(name) {
  const view = attackView(name);
  byId("attack-note").textContent = view.summary.replaceAll("`", "");
  const options = Object.fromEntries(view.options.map((one) => [one.name, one.start]));
  byId("options").replaceChildren(...view.options.map((one) => optionField(one)));
  for (const choice of byId("norm").options) choice.disabled = !view.norms.includes(choice.value);
  choose({ attack: name, options });
  tellKnowledge();
  if (view.norms.length && !view.norms.includes(state.norm)) chooseNorm(view.norms[0]);
}

function optionField(option) {
  const id = `option-${option.name}`;
  const changed = (event) => {
    const value = Math.round(Number(event.target.value));
    if (!(value >= 1 && value <= option.most)) {
      event.target.value = Math.min(Math.max(value || option.start, 1), option.most);
    }
    choose({ options: { ...state.options, [option.name]: Math.round(Number(event.target.value)) } });
  };
  const field = { type: "number", id, min: 1, max: option.most, value: option.start, inputmode: "numeric" };
  return make("div", {}, make("label", { for: id }, option.name), make("input", { ...field, onchange: changed }));
}

function chooseNorm(norm, tell = true) {
  const range = RANGES[norm];
  const slider = byId("epsilon");
  Object.assign(slider, { max: range.most, step: range.step });
  slider.value = range.start;
  byId("norm").value = norm;
  byId("epsilon-marks").replaceChildren(...range.marks.map(([value]) => make("option", { value })));
  byId("marks").replaceChildren(
    ...range.marks.map(([value, text]) => {
      const button = make("button", { type: "button", onclick: () => setEpsilon(value) }, text);
      button.style.left = `${(100 * value) / range.most}%`;
      return button;
    }),
  );
  state.norm = norm;
  setEpsilon(range.start, tell);
}

function setEpsilon(epsilon, tell = true) {
  byId("epsilon").value = epsilon;
  const levels = state.norm === "linf" ? ` = ${(epsilon * 255).toFixed(1).replace(".0", "")}/255` : "";
  byId("epsilon-text").textContent = `${epsilon.toFixed(3)}${levels}`;
  byId("epsilon").setAttribute("aria-valuetext", byId("epsilon-text").textContent);
  if (tell) choose({ epsilon });
  else state.epsilon = epsilon;
}
