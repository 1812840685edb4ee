// The head of the page and its tables. Each number's element also holds the exact value and its key
// in the JSON of `flowspan timeline --json`.

const seconds = (value) => human(Math.round(value * SECOND));
// Return the value at a path such as `rows.output`.
const at = (object, field) => field.split(".").reduce((value, key) => value[key], object);
const causes = PHASES.slice(0, OTHER);

function fillHead() {
  const head = data.head;
  byId("flow").textContent = head.flow;
  byId("run").textContent = head.run;
  const badge = byId("ending");
  badge.textContent = `${{ good: "✓ ", bad: "✗ ", odd: "○ ", open: "… " }[head.outcome] ?? ""}${head.ending}`;
  badge.classList.add(head.outcome || "none");
  badge.hidden = !head.ending;
  const many = (number, word) => `${grouped(number)} ${word}${number === 1 ? "" : "s"}`;
  const about = [
    `started ${head.started}`, human(head.duration), many(head.runs, "run"), many(head.spans, "span"),
    ...(head.services.length ? [`service ${head.services.join(", ")}`] : []),
    ...(head.around ? [head.around] : []),
  ];
  byId("about").replaceChildren(`${about.join(" · ")} · trace `, element("code", { text: head.trace }));
  byId("headline").textContent = numbers.headline;
  const origin = {
    prefect: "These are Prefect's own spans. They do not record waits, so waiting counts as execution.",
    plain: "These spans are not flowspan's. Only their times and callers are known.",
  }[numbers.source];
  byId("source").textContent = [origin, ...numbers.remarks].filter(Boolean).join(" ");
}

function fillNumbers() {
  const tiles = [
    ["Duration", "duration", seconds],
    ["Work in tasks", "concurrency.work", seconds, "execution time of all tasks"],
    ["Mean concurrency", "concurrency.mean", (value) => fixed(value, 2), "work over duration"],
    ["Peak concurrency", "concurrency.peak", String, "the most tasks that executed at once"],
    ["Parallel efficiency", "concurrency.efficiency", percent, "mean over peak concurrency"],
    ["Retry cost", "retry_cost.total", seconds, "failed attempts that were retried, and the time between"],
    ["Retry cost on path", "retry_cost.on_critical_path", seconds, "part of the retry cost that is on the critical path"],
    ["Orchestration", "orchestration.total", seconds, "time in which no task was running"],
  ];
  byId("numbers").replaceChildren(...tiles.map(([label, field, write, title]) =>
    element("div", { title },
      element("dt", { text: label }),
      element("dd", { "data-field": field, "data-value": at(numbers, field), text: write(at(numbers, field)) }))));
}

function cell(field, value, write, properties = {}) {
  const isMissing = value === null || value === undefined;
  return element("td", {
    class: "number", "data-field": field, "data-value": isMissing ? "" : value, ...properties,
    text: isMissing ? "–" : write(value),
  });
}

const blankZero = (write) => (value) => (value === 0 ? "·" : write(value));

const TASK_COLUMNS = [
  ["Task", "name", null, "flow or task"],
  ["Path share", "share", percent, "share of the critical path"],
  ["On path", "path", blankZero(seconds), "time on the critical path"],
  ["Mostly", "cause", null, "the cause of most of its time on the path"],
  ["Drag", "drag", blankZero(seconds), "time saved if its execution took no time"],
  ["2× faster saves", "saved", blankZero(seconds), "time saved if its execution took half the time"],
  ["Slack", "slack", blankZero(seconds), "how much longer its runs could take without delaying the whole run"],
  ["Runs", "runs", grouped, "number of runs"],
  ["Failed", "failed", blankZero(grouped), "runs that failed"],
  ["Retries", "retries", blankZero(grouped), "attempts beyond the first"],
  ["Duration", "duration", seconds, "total of all its runs, including waits inside them"],
  ["Execution", "execution", blankZero(seconds), "time inside its function, over all runs"],
  ["Waited", "waits", null, "waits by cause, over all runs"],
  ["Rows in", "rows.input", grouped, "rows of its arguments"],
  ["Rows out", "rows.output", grouped, "rows of its results"],
];
const MOST_TASKS = 500;
let order = { field: "share", down: true };

function fillTasks() {
  const columns = TASK_COLUMNS.filter(([, field]) => !field.startsWith("rows.") || numbers.tasks.some((task) => at(task, field) !== null));
  const total = (task) => causes.reduce((sum, cause) => sum + (task.waits[cause] ?? 0), 0);
  const key = (task) => (order.field === "waits" ? total(task) : at(task, order.field));
  const sorted = numbers.tasks.map((task, place) => [task, place]).sort(([a, i], [b, j]) => {
    const [one, other] = [key(a) ?? -1, key(b) ?? -1];
    const sign = one < other ? -1 : one > other ? 1 : 0;
    return (order.down ? -sign : sign) || i - j;
  });
  const head = element("tr", {}, ...columns.map(([label, field, write, title]) =>
    element("th", {
      scope: "col", title, class: write || field === "waits" ? "number" : "",
      "aria-sort": order.field === field ? (order.down ? "descending" : "ascending") : undefined,
    }, element("button", { type: "button", text: label, onclick: () => sortBy(field) }))));
  const rows = sorted.slice(0, MOST_TASKS).map(([task, place]) =>
    element("tr", { "data-task": task.name, "data-place": place, "data-type": task.type },
      ...columns.map((column) => taskCell(task, column))));
  const more = numbers.tasks.length - MOST_TASKS;
  byId("tasks").replaceChildren(
    element("caption", { class: "unseen", text: "Tasks by their share of the critical path" }),
    element("thead", {}, head), element("tbody", {}, ...rows),
    ...(more > 0 ? [element("tfoot", {}, element("tr", {}, element("td", { colspan: columns.length, text: `${grouped(more)} more in flowspan timeline --json` })))] : []));
}

function taskCell(task, [, field, write]) {
  if (field === "name") {
    return element("th", { scope: "row", class: task.type === "flow" ? "flow" : "", "data-field": "name", "data-value": task.name },
      element("button", { type: "button", class: "link", text: task.name, title: "Find its spans", onclick: () => searchFor(task.name) }),
      task.type === "flow" ? element("span", { class: "itself", text: " itself" }) : null);
  }
  if (field === "cause") {
    return element("td", { "data-field": field, "data-value": task.cause ?? "" },
      ...(task.cause ? [swatch(causes.indexOf(task.cause)), ` ${WORDS[causes.indexOf(task.cause)]}`] : ["–"]));
  }
  if (field === "waits") return waitsCell(task);
  const made = cell(field, at(task, field), write, field === "failed" && task.failed ? { class: "number bad" } : {});
  if (field === "share") {
    const meter = element("span", { class: "meter", "aria-hidden": "true" }, element("i"));
    meter.firstChild.style.width = `${Math.min(100, task.share * 100)}%`;
    made.replaceChildren(meter, element("span", { class: "share", text: made.textContent }));
  }
  return made;
}

function waitsCell(task) {
  const parts = causes.filter((cause) => task.waits[cause]);
  return element("td", { class: "number" }, ...parts.map((cause) =>
    element("span", { class: "wait", title: NOUNS[causes.indexOf(cause)] },
      swatch(causes.indexOf(cause)),
      element("span", { "data-field": `waits.${cause}`, "data-value": task.waits[cause], text: ` ${seconds(task.waits[cause])}` }),
      element("span", { class: "unseen", text: ` for ${NOUNS[causes.indexOf(cause)]} ` }))),
  parts.length ? "" : "·");
}

function sortBy(field) {
  order = { field, down: order.field === field ? !order.down : field !== "name" && field !== "cause" };
  fillTasks();
  byId("tasks").querySelector(`th[aria-sort] button`).focus();
}

function fillCauses() {
  const named = causes.map((cause, look) => ({ cause, look, path: numbers.causes[cause] ?? 0, waits: numbers.waiting[cause] ?? 0 }))
    .filter(({ path: time, waits: waited }) => time > 0 || waited > 0);
  const total = named.reduce((sum, one) => sum + one.path, 0);
  byId("stack").replaceChildren(...named.filter((one) => one.path > 0).map((one) => {
    const part = element("span", { class: "part", title: `${WORDS[one.look]} ${seconds(one.path)}` },
      drawing("svg", { width: "100%", height: 14 }, drawing("rect", { width: "100%", height: 14, fill: stackFill(one.look) })),
      element("span", { class: "part-label", text: one.path / total > 0.09 ? `${WORDS[one.look]} ${percent(one.path / total)}` : "" }));
    part.style.flexGrow = one.path / total;
    return part;
  }));
  byId("causes").replaceChildren(
    element("thead", {}, element("tr", {}, ...["Cause", "On the critical path", "Share", "All runs together"].map((label, place) =>
      element("th", { scope: "col", class: place ? "number" : "", text: label })))),
    element("tbody", {}, ...named.map((one) => element("tr", { "data-cause": one.cause },
      element("th", { scope: "row" }, swatch(one.look), ` ${WORDS[one.look]}`),
      cell(`causes.${one.cause}`, one.path, blankZero(seconds)),
      element("td", { class: "number", text: total ? percent(one.path / total) : "–" }),
      one.cause in numbers.waiting ? cell(`waiting.${one.cause}`, one.waits, blankZero(seconds)) : element("td", { class: "number", text: "" })))));
}

// Return the fill of a part of the stack; all parts have the same height.
const stackFill = (look) => (isThin(look) ? `var(--${KEYS[look]}-line)` : `url(#look-${look})`);

function fillLegend() {
  const drawn = new Set(segments.phase);
  const used = [...PHASES.keys()].filter((phase) => drawn.has(phase));
  const hasFailed = Array.from({ length: count }, (_, row) => row).some((row) => outcomeOf(row) === "bad");
  byId("legend").replaceChildren(
    ...[...used, ...(hasFailed ? [FAILED] : [])].map((look) => element("span", {},
      swatch(look), look === FAILED ? "failed ✗" : WORDS[look])),
    ...(path.row.length ? [element("span", {}, element("i", { class: "path-sample" }), "critical path")] : []),
    ...(upstream.row.length ? [element("span", { class: "screen" }, element("i", { class: "arrow-sample", text: "➝" }), "dependency of the row under the pointer")] : []));
}
