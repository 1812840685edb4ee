// The details of one span.

const FEW = 200; // list items shown at first

function openDetails(row) {
  view.selected = row;
  const panel = byId("details");
  const of = details().rows[row];
  const told = (place) => details().texts[place];
  panel.replaceChildren(
    element("div", { class: "details-head" },
      element("h3", { text: nameOf(row) }),
      element("button", { type: "button", class: "quiet", "aria-label": "Close details", title: "Close (Esc)", text: "×", onclick: closeDetails })),
    summary(row, of, told),
    ...waits(row),
    ...connections("Waited for", related(upstream, row)),
    ...connections("Waited for it", related(downstream, row)),
    ...logs(of.logs, told),
    ...events(of.events, told),
    ...pairs("Attributes", of.attributes, told),
    ...otherLinks(of.links, told),
    ...pairs("Process", details().resources[of.resource], told, true));
  panel.hidden = false;
  byId("tip").hidden = true;
  panel.scrollTop = 0;
  byId("frame").classList.add("with-details");
  measure();
  refresh();
}

function closeDetails() {
  const panel = byId("details");
  const held = panel.contains(document.activeElement);
  panel.hidden = true;
  view.selected = -1;
  byId("frame").classList.remove("with-details");
  if (held) rowsBox.focus();
  measure();
  refresh();
}

function summary(row, of, told) {
  const facts = [];
  const add = (label, value, field) => facts.push(
    element("dt", { text: label }), element("dd", { text: value, "data-field": field }));
  if (runNameOf(row)) add("Run", runNameOf(row));
  const now = text(data.rows.now[row]);
  if (endingOf(row)) add(now ? "State" : "Ended", endingOf(row));
  if (now) add("", now);
  add("Start", `${stopwatch(start[row])} after the first span`);
  add("", clock(data.base, data.rows.start[row], data.offset), "start");
  add("Duration", human(end[row] - start[row]));
  add("", exactly(BigInt(data.rows.end[row]) - BigInt(data.rows.start[row])), "duration");
  if (onPath[row]) add("Critical path", `${human(onPath[row])}, ${percent(onPath[row] / pathLength)}`);
  if (text(data.rows.lane[row])) add("Ran on", text(data.rows.lane[row]));
  add("Span", data.rows.id[row], "span_id");
  if (of.missing) add("Parent", `${told(of.missing)}, which is not in this trace`);
  const list = element("dl", { class: "facts" }, ...facts);
  const message = text(data.rows.message[row]);
  return element("div", {}, list, message ? element("p", { class: "message", text: message }) : null);
}

function section(title, ...content) {
  return [element("h4", { text: title }), ...content];
}

function waits(row) {
  const totals = new Map();
  for (let place = segments.at[row]; place < segments.at[row + 1]; place += 1) {
    const look = lookOf(row, segments.phase[place]);
    totals.set(look, (totals.get(look) ?? 0) + segments.end[place] - segments.start[place]);
  }
  if (totals.size === 1 && (totals.has(OTHER) || role[row] === ATTEMPT)) return [];
  return section("Where its time went", element("ul", { class: "phases" }, ...[...totals].map(([look, time]) =>
    element("li", {}, swatch(look),
      element("span", { text: look === FAILED ? "execution, failed" : WORDS[look] }),
      element("span", { class: "number", text: human(time) })))));
}

function spanButton(row) {
  return element("button", { type: "button", class: "link", text: `${nameOf(row)} ${runNameOf(row)}`.trim(), onclick: () => goTo(row, true) });
}

function connections(title, rows) {
  if (!rows.length) return [];
  return section(title, someOf([...rows], "ul", "spans", (row) => element("li", {}, spanButton(row))));
}

// Make a list that shows the first items, and the rest on demand.
function someOf(items, name, kind, make) {
  const list = element(name, { class: kind }, ...items.slice(0, FEW).map(make));
  if (items.length > FEW) {
    const more = element("button", { type: "button", class: "link", text: `${grouped(items.length - FEW)} more` });
    more.addEventListener("click", () => {
      more.parentNode.replaceWith(...items.slice(FEW).map(make));
    });
    list.append(element("li", {}, more));
  }
  return list;
}

function logs(lines, told) {
  if (!lines.length) return [];
  return section("Logs", someOf(lines, "ol", "logs", ([time, level, message, logger, fields, stack]) =>
    element("li", { title: told(logger) },
      element("span", { class: "time", text: stopwatch(Number(time)) }),
      element("span", { class: `level ${told(level).toLowerCase().replace(/[^a-z]/g, "")}`, text: told(level) || "-" }),
      element("span", { class: "said", text: told(message) }),
      ...inPairs(fields).map(([key, value]) => element("span", { class: "field" },
        element("b", { text: told(key) }), `=${told(value)}`)),
      stack ? folding("exception", told(stack)) : null)));
}

function folding(title, content) {
  return element("details", {}, element("summary", { text: title }), element("pre", { text: content }));
}

function events(list, told) {
  if (!list.length) return [];
  return section("Events", someOf(list, "ol", "events", ([name, time, attributes]) => {
    const own = inPairs(attributes).filter(([, value]) => told(value) !== "");
    const short = own.filter(([, value]) => !told(value).includes("\n"));
    const long = own.filter(([, value]) => told(value).includes("\n"));
    return element("li", {},
      element("span", { class: "time", text: stopwatch(Number(time)) }),
      element("b", { text: told(name) }),
      element("dl", { class: "pairs" }, ...short.flatMap(([key, value]) => pair(told(key), told(value)))),
      ...long.map(([key, value]) => folding(told(key), told(value))));
  }));
}

const inPairs = (flat) => Array.from({ length: flat.length / 2 }, (_, place) => [flat[2 * place], flat[2 * place + 1]]);
const pair = (key, value) => [element("dt", { text: key }), element("dd", { text: value })];

function pairs(title, flat, told, quiet = false) {
  if (!flat.length) return [];
  const sorted = inPairs(flat).map(([key, value]) => [told(key), told(value)]).sort(([a], [b]) => (a < b ? -1 : 1));
  const list = element("dl", { class: "pairs" }, ...sorted.flatMap(([key, value]) => pair(key, value)));
  return quiet ? [element("details", { class: "more" }, element("summary", { text: title }), list)] : section(title, list);
}

// List the links without arrows: to other traces, missing spans and earlier attempts.
function otherLinks(links, told) {
  const shown = links.filter(([row, , , attributes]) =>
    row < 0 || inPairs(attributes).some(([key, value]) => told(key) === "prefect.link.type" && told(value) !== "dependency"));
  if (!shown.length) return [];
  return section("Links", someOf(shown, "ul", "spans", ([row, trace, id, attributes]) =>
    element("li", {},
      row < 0 ? element("span", { class: "mono", text: `${told(id)} of trace ${told(trace)}` }) : spanButton(row),
      element("dl", { class: "pairs" }, ...inPairs(attributes).flatMap(([key, value]) => pair(told(key), told(value)))))));
}
