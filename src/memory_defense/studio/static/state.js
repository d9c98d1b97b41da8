// What is chosen, and who wants to know when it changes.

export const state = {
  shelf: null,
  run: null,
  described: null,
  image: null,
  label: "",
  attack: "pgd",
  options: {},
  knowledge: "end-to-end",
  norm: "linf",
  epsilon: 0.1,
};

const listeners = [];

export function onChange(listener) {
  listeners.push(listener);
}

/** Change what is chosen and tell everybody. */
export function choose(changes) {
  Object.assign(state, changes);
  for (const listener of listeners) listener(changes);
}

export function runOf(name) {
  return state.shelf.runs.find((run) => run.name === name);
}

/** Return whether two runs take images of one dataset. */
export function alike(one, other) {
  const kind = (run) => JSON.stringify([run.dataset, run.channels, run.height, run.width, run.classes]);
  return kind(one) === kind(other);
}

export function classes() {
  return runOf(state.run)?.classes ?? [];
}

/** Return the part of a request that names image, class and attack; null as long as something is missing. */
export function request() {
  if (!state.described || !state.image) return null;
  return {
    image: state.image,
    label: state.label === "" ? null : Number(state.label),
    attack: {
      attack: state.attack,
      options: state.options,
      knowledge: state.knowledge,
      norm: state.norm,
      epsilon: state.epsilon,
    },
  };
}
