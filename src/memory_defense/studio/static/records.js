// The tab Records: what evaluations found, of runs and of any other classifier, and the way to the whole reports.

import { get } from "./api.js";
import { byId, make } from "./dom.js";

const NARROW = "(max-width: 48rem)";
const watched = new ResizeObserver((changes) => changes.forEach(({ target }) => stack(target)));

export async function refreshRecords() {
  const place = byId("records");
  place.setAttribute("aria-busy", "true");
  watched.disconnect(); // from the tables that are replaced
  try {
    place.replaceChildren(...view(await get("/api/records")));
  } catch (error) {
    place.replaceChildren(make("p", { class: "trouble" }, error.message));
  }
  place.removeAttribute("aria-busy");
}

function view(records) {
  const parts = records.faults.map((fault) => make("p", { class: "trouble" }, fault));
  const looked = make(
    "p",
    { class: "note" },
    `This page shows every record below these folders: ${records.looked.join("; ")}. `,
    "A record is the file that 'memdef evaluate' writes, for a run or for any classifier of your own.",
  );
  if (!records.headline) {
    parts.push(make("p", { class: "card" }, "There is no record yet; make one with: memdef evaluate RUN"), looked);
    return parts;
  }
  parts.push(make("h2", {}, "What was evaluated"), looked, make("div", { class: "headline" }, table(records.headline)));
  return [...parts, ...records.records.map(record)];
}

function record(one) {
  const report = `/report?${new URLSearchParams({ name: one.name })}`;
  const kind = one.run ? "Run" : "Record file";
  return make(
    "article",
    { class: "card" },
    make("h2", {}, one.title),
    make("p", { class: "note" }, `${kind} ${one.name}. Data: ${one.dataset}, ${one.images} images.`),
    make("dl", { class: "figures" }, one.numbers.map(figure)),
    make("p", {}, one.answer),
    one.notes.length > 0 && make("p", { class: "note" }, `Noted: ${one.notes.join("; ")}.`),
    one.caution && make("p", { class: "caution" }, `⚠ ${one.caution}`),
    audit(one),
    make("p", {}, make("a", { href: report, target: "_blank", rel: "noopener" }, `The whole report of ${one.title} (new tab)`)),
    one.tables.map((given) => make("details", {}, make("summary", {}, given.title), table(given))),
  );
}

function figure(one) {
  return make(
    "div",
    {},
    make("dt", {}, one.name),
    make("dd", {}, make("b", {}, one.detail ? `${one.text} %` : one.text), one.detail && make("span", { class: "small" }, ` ${one.detail}`)),
  );
}

function audit(one) {
  if (!one.failed.length) return make("p", {}, one.audit);
  const failed = one.failed.map((check) =>
    make(
      "li",
      {},
      make("span", { class: "verdict fail" }, make("span", { "aria-hidden": "true" }, "✗ "), "failed"),
      make("b", {}, ` ${check.check}`),
      check.value && ` (${check.value})`,
      make("p", {}, `What is measured: ${check.meaning}.`),
      check.remedy && make("p", {}, `What to do: ${check.remedy}.`),
    ),
  );
  return make("details", {}, make("summary", {}, one.audit), make("ul", { class: "failed" }, failed));
}

/** An interval stays on one line. */
function together(text) {
  return text.replace(/\[[^\]]*\]/g, (found) => found.replaceAll(" ", "\u00a0"));
}

/** Make a table a list of cards where it is wider than its place, so that nothing of it is cut off. */
function stack(place) {
  const width = String(place.clientWidth);
  if (place.dataset.width === width) return;
  place.dataset.width = width;
  const [shown] = place.children;
  shown.classList.remove("stacked");
  shown.classList.toggle("stacked", window.matchMedia(NARROW).matches || place.scrollWidth > place.clientWidth);
}

/** A table that becomes a list of cards where it has no room; the roles keep it a table for who listens. */
function table(given) {
  const head = given.columns.map((column) =>
    make("th", { scope: "col", role: "columnheader", class: column.numeric ? "number" : null }, column.title, column.note && make("small", {}, column.note)),
  );
  const cell = (one, place) => {
    const column = given.columns[place];
    const text = make(one.strong ? "strong" : "span", { class: "value" }, one.text);
    const detail = one.detail && make("small", {}, " ", together(one.detail));
    const name = make("span", { class: "cell-name", "aria-hidden": "true" }, column.note ? `${column.title} (${column.note})` : column.title);
    if (place === 0) return make("th", { scope: "row", role: "rowheader" }, text, detail);
    const kinds = [column.numeric ? "number" : one.text.length > 40 && "text", !one.text && "blank"].filter(Boolean).join(" ");
    return make("td", { role: "cell", class: kinds || null }, name, make("span", {}, text, detail));
  };
  const rows = given.rows.map((row) => make("tr", { role: "row" }, row.map(cell)));
  const place = make(
    "div",
    { class: "scroll", role: "region", tabindex: "0", "aria-label": given.title },
    make(
      "table",
      { class: "records", role: "table" },
      make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, head)),
      make("tbody", { role: "rowgroup" }, rows),
    ),
  );
  watched.observe(place);
  return make(
    "div",
    {},
    place,
    given.notes.length > 0 && make("p", { class: "note" }, given.notes.join(" ")),
  );
}
