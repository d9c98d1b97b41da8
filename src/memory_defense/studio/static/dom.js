// Elements without HTML strings: text is always text, so nothing that a server or a file says can become markup.

const SVG = "http://www.w3.org/2000/svg";

/** Return an element with properties and children; null and false children are left out. */
export function make(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** Return an SVG element. */
export function draw(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Return the element with this id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Fill a select with [value, text] pairs and keep what was chosen where it is still there. */
export function offer(select, entries, wanted = select.value) {
  select.replaceChildren(...entries.map(([value, text, off]) => make("option", { value, disabled: off }, text)));
  const values = entries.filter(([, , off]) => !off).map(([value]) => String(value));
  select.value = values.includes(String(wanted)) ? wanted : (values[0] ?? "");
}

/** Put headings over the entries of a select that `offer` filled: pairs of a heading and how many it is for. */
export function group(select, groups) {
  let rest = [...select.options];
  const wanted = select.value;
  const parts = groups.filter(([, count]) => count).map(([label, count]) => {
    const part = make("optgroup", { label }, rest.slice(0, count));
    rest = rest.slice(count);
    return part;
  });
  select.replaceChildren(...parts, ...rest);
  select.value = wanted;
}

export function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

/** Return a small picture; it is drawn with hard pixels. */
export function picture(source, text) {
  return make("img", { src: source, alt: text, class: "pixels" });
}
