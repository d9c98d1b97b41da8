// The tab Records: what evaluations found, as tables, and the way to the whole reports.

import { get } from "./api.js";
import { byId, make } from "./dom.js";

export async function refreshRecords() {
  const place = byId("records");
  place.setAttribute("aria-busy", "true");
  try {
    place.replaceChildren(...view(await get("/api/records")));
  } catch (error) {
    place.replaceChildren(make("p", { class: "trouble" }, error.message));
  }
  place.removeAttribute("aria-busy");
}

function view(records) {
  const parts = records.faults.map((fault) => make("p", { class: "trouble" }, fault));
  if (!records.headline) {
    parts.push(make("p", { class: "card" }, "No run has a record yet; make one with: memdef evaluate RUN"));
    return parts;
  }
  parts.push(make("h2", {}, "Every evaluated run"), table(records.headline));
  return [...parts, ...records.records.map(record)];
}

function record(one) {
  const report = `/report?${new URLSearchParams({ run: one.run })}`;
  return make(
    "article",
    { class: "card" },
    make("h2", {}, one.title),
    make("p", { class: "note" }, `${one.dataset}, ${one.images} images`),
    make("p", {}, one.answer),
    one.caution && make("p", { class: "caution" }, `⚠ ${one.caution}`),
    make("p", {}, make("a", { href: report, target: "_blank", rel: "noopener" }, `The whole report of ${one.title} (new tab)`)),
    one.tables.map((given, place) => make("details", { open: place === 0 }, make("summary", {}, given.title), table(given))),
  );
}

function table(given) {
  const head = given.columns.map((column) =>
    make("th", { scope: "col", class: column.numeric ? "number" : null }, column.title, column.note && make("small", {}, column.note)),
  );
  const cell = (one, place) => {
    const number = given.columns[place].numeric;
    const text = one.strong ? make("strong", {}, one.text) : one.text;
    const detail = one.detail && make("small", {}, ` ${one.detail}`);
    const kind = number ? "number" : one.text.length > 40 ? "text" : null;
    return place === 0 ? make("th", { scope: "row" }, text, detail) : make("td", { class: kind }, text, detail);
  };
  const rows = given.rows.map((row) => make("tr", {}, row.map(cell)));
  return make(
    "div",
    {},
    make(
      "div",
      { class: "scroll", role: "region", tabindex: "0", "aria-label": given.title },
      make("table", { class: "records" }, make("thead", {}, make("tr", {}, head)), make("tbody", {}, rows)),
    ),
    given.notes.length > 0 && make("p", { class: "note" }, given.notes.join(" ")),
  );
}
