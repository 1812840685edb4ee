// Write times, durations and shares as flowspan does in the terminal.

const MS = 1e6;
const SECOND = 1e9;

// Python rounds a tie to the even neighbour, JavaScript away from zero. Only short binary fractions
// are ties; other numbers merely look like ties after the multiplication.
function fixed(number, digits) {
  const scaled = number * 10 ** digits;
  const below = Math.floor(scaled);
  const tie = Number.isInteger(number * 2 ** (digits + 1)) && scaled - below === 0.5;
  return tie && below % 2 === 0 ? (below / 10 ** digits).toFixed(digits) : number.toFixed(digits);
}

function grouped(number) {
  return String(number).replace(/\B(?=(\d{3})+(?!\d))/g, ",");
}

function human(nanoseconds) {
  if (nanoseconds < MS) {
    const tenths = fixed(nanoseconds / MS, 1);
    return nanoseconds <= 0 ? "0 ms" : tenths === "0.0" ? "<0.1 ms" : `${tenths} ms`;
  }
  if (nanoseconds < SECOND - MS / 2) return `${fixed(nanoseconds / MS, 0)} ms`;
  if (nanoseconds < 60 * SECOND - 50 * MS) {
    const seconds = nanoseconds / SECOND;
    return `${fixed(seconds, seconds < 9.995 ? 2 : 1)} s`;
  }
  const seconds = Number(fixed(nanoseconds / SECOND, 0));
  const minutes = Math.floor(seconds / 60);
  const hours = Math.floor(seconds / 3600);
  const two = (number) => String(number).padStart(2, "0");
  if (!hours) return `${minutes} m ${two(seconds % 60)} s`;
  if (seconds < 86400) return `${hours} h ${two(minutes % 60)} m`;
  return `${grouped(Math.floor(seconds / 86400))} d ${two(hours % 24)} h`;
}

function percent(share) {
  const hundred = share * 100;
  return `${fixed(hundred, hundred > 0 && hundred < 9.95 ? 1 : 0)} %`;
}

// Write the label of a tick, as short as possible.
function tick(nanoseconds, step) {
  const sign = nanoseconds < 0 ? "−" : "";
  const time = Math.abs(nanoseconds);
  if (time === 0) return "0";
  const plain = (number) => String(Number(number.toPrecision(12)));
  if (step < 1e3) return `${sign}${plain(time)} ns`;
  if (step < MS && time < SECOND) return `${sign}${plain(time / 1e3)} µs`;
  if (time < SECOND) return `${sign}${plain(time / MS)} ms`;
  if (time < 60 * SECOND || step < SECOND) return `${sign}${plain(time / SECOND)} s`;
  const seconds = Math.round(time / SECOND);
  const parts = [
    [Math.floor(seconds / 86400), "d"],
    [Math.floor(seconds / 3600) % 24, "h"],
    [Math.floor(seconds / 60) % 60, "m"],
    [seconds % 60, "s"],
  ];
  return sign + parts.filter(([value]) => value).map(([value, unit]) => `${value} ${unit}`).join(" ");
}

// Return a round distance of ticks that leaves room for each label.
function tickStep(length, most) {
  const least = length / Math.max(1, most);
  const steps = [10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 10800, 21600, 43200];
  for (let power = 0; power < 10; power += 1) {
    for (const lead of [1, 2, 5]) if (lead * 10 ** power >= least) return lead * 10 ** power;
  }
  for (const seconds of steps) if (seconds * SECOND >= least) return seconds * SECOND;
  for (let power = 0; ; power += 1) {
    for (const lead of [1, 2, 5]) {
      const step = lead * 10 ** power * 86400 * SECOND;
      if (step >= least) return step;
    }
  }
}

// Write times from BigInt, so that no nanosecond is lost.
function exactly(relative) {
  return `${grouped(BigInt(relative))} ns`;
}

// Write date and time in the time zone in which the page was written.
function clock(base, relative, offset) {
  const time = BigInt(base) + BigInt(relative);
  const ahead = time + BigInt(offset) * 60n * BigInt(SECOND);
  const date = new Date(Number(ahead / BigInt(MS)));
  if (Number.isNaN(date.getTime())) return `${time} ns after 1970`;
  const [day, hour] = date.toISOString().split("T");
  const fraction = String(ahead % BigInt(SECOND)).padStart(9, "0");
  const two = (number) => String(number).padStart(2, "0");
  const zone = `${offset < 0 ? "-" : "+"}${two(Math.floor(Math.abs(offset) / 60))}:${two(Math.abs(offset) % 60)}`;
  return `${day} ${hour.slice(0, 8)}.${fraction} ${zone}`;
}

// Write the time since the start, with milliseconds.
function stopwatch(nanoseconds) {
  const ms = Math.floor(Math.abs(nanoseconds) / MS);
  const minutes = Math.floor(ms / 60000);
  const two = (number) => String(number).padStart(2, "0");
  const seconds = `${two(Math.floor(ms / 1000) % 60)}.${String(ms % 1000).padStart(3, "0")}`;
  const sign = nanoseconds < 0 && ms ? "-" : "";
  if (minutes < 60) return `${sign}${minutes}:${seconds}`;
  return `${sign}${Math.floor(minutes / 60)}:${two(minutes % 60)}:${seconds}`;
}

// Make an element. Text is set as text, so nothing from a trace is parsed as HTML.
function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "text") made.textContent = value;
    else if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function drawing(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const byId = (id) => document.getElementById(id);
