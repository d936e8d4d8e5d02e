// The page of `hypern-shm serve`. It shows what strangers chose (names, messages): everything becomes text, never markup.
// Two streams of server-sent events: /events (one look a second, and sums for the plots), /tail (one channel).
import { plot, stack } from "./plots.js";
import { Table } from "./table.js";
import { bytes, count, element, plain, rate, some, span, when } from "./words.js";

const at = (id) => document.getElementById(id);
const KEPT = 300; // sums that the plots go back
const LINES = 500; // messages in the log
const nameOf = (row) => (row.namespace ? `${row.namespace}/` : "") + (row.name ?? "(removed)");
const workers = (owners) => owners.map((owner) => owner.pid ?? "gone").join(", ") || "nobody";

let samples = []; // oldest first
let look = null;
let before = null; // {identity, monotonic, published: life → messages} at the look before
let rates = new Map(); // life → messages a second
let shown = null; // the channel whose messages are shown: {key, namespace, name, kind}
let tail = null; // its stream
let listeners = []; // and its handles
let lastId = ""; // of the last message shown: where it goes on after a pause

// ---- channels

const lifeOf = (row) => `${row.cell} ${row.newest_id.split("-")[0]}`;
const lagging = (row) => (row.max_lag ?? 0) * 2 > row.buffer_size;

const channels = new Table(at("channels"), {
  key: (row) => `${row.cell} ${row.kind} ${row.state} ${nameOf(row)}`,
  caption: "Channels and broadcasts",
  sort: "rate",
  columns: [
    { id: "name", title: "Channel", kind: "name", value: nameOf, open: (row) => (row.state === "open" && row.name !== null ? open : null) },
    { id: "kind", title: "Kind", value: (row) => (row.state === "open" ? row.kind : `${row.kind}, ${row.state}`), wide: true },
    { id: "rate", title: "Rate", kind: "number", value: (row) => rates.get(lifeOf(row)) ?? 0, text: rate },
    { id: "published", title: "Published", kind: "number", value: (row) => row.published, text: count, wide: true },
    { id: "retained", title: "Kept", kind: "number", value: (row) => row.retained, text: (value, row) => `${count(value)}/${count(row.buffer_size)}`, wide: true },
    { id: "handles", title: "Handles", kind: "number", value: (row) => row.handles, text: count, wide: true },
    { id: "lag", title: "Lag", kind: "number", value: (row) => row.max_lag ?? 0, text: (value, row) => (row.max_lag === null ? "–" : count(value) + (lagging(row) ? " behind!" : "")), bad: lagging },
    { id: "missed", title: "Missed", kind: "number", value: (row) => row.missed, text: count, wide: true },
  ],
});

function takeRates() {
  const { identity, taken_monotonic: monotonic } = look.overview;
  const seconds = before?.identity === identity ? monotonic - before.monotonic : 0;
  const published = new Map(look.channels.map((row) => [lifeOf(row), row.published]));
  if (seconds > 0) {
    rates = new Map(look.channels.map((row) => {
      const then = before.published.get(lifeOf(row));
      return [lifeOf(row), then === undefined ? 0 : Math.max(0, row.published - then) / seconds];
    }));
  }
  if (seconds !== 0 || !before || before.identity !== identity) before = { identity, monotonic, published };
}

function showChannels() {
  if (!look?.channels) return;
  const wanted = at("wanted").value.toLowerCase();
  const rows = look.channels.filter((row) => nameOf(row).toLowerCase().includes(wanted));
  const left = channels.show(rows, shown?.key);
  const parts = [`${count(rows.length)} of ${count(look.channels.length + look.channels_left_out)}`];
  if (left) parts.push(`the first ${count(rows.length - left)} are shown`);
  if (look.channels_left_out) parts.push(`the ${count(look.channels.length)} with most traffic can be found here`);
  at("channels-count").textContent = parts.join("; ");
}

// ---- processes, presence, subscribers

const stateOf = (row) => [row.state, row.waiting, row.keeper ? "keeper" : null].filter(Boolean).join(", ");

const processes = new Table(at("processes"), {
  key: (row) => `${row.slot} ${row.incarnation}`,
  caption: "Attached processes",
  columns: [
    { id: "pid", title: "Pid", kind: "number", value: (row) => row.pid, text: String },
    { id: "state", title: "State", value: stateOf, bad: (row) => !row.alive || row.state === "stopped" },
    { id: "since", title: "For", kind: "number", value: (row) => row.attached_seconds, text: span },
    { id: "handles", title: "Handles", kind: "number", value: (row) => row.holds.handles, text: count },
    { id: "members", title: "Members", kind: "number", value: (row) => row.holds.members, text: count, wide: true },
    { id: "slot", title: "Slot", kind: "number", value: (row) => row.slot, text: String, wide: true },
    { id: "command", title: "Command", kind: "name", value: (row) => row.command ?? "", wide: true },
  ],
});

const members = new Table(at("members"), {
  key: (row) => JSON.stringify([row.namespace, row.channel, row.client]),
  caption: "Members of channels",
  columns: [
    { id: "client", title: "Client", kind: "name", value: (row) => row.client },
    { id: "channel", title: "Channel", kind: "name", value: (row) => (row.namespace ? `${row.namespace}/` : "") + row.channel },
    { id: "workers", title: "Process", value: (row) => workers(row.owners) },
    { id: "since", title: "Joined", value: (row) => when(row.joined_at), wide: true },
  ],
});

const handles = new Table(at("handles"), {
  key: (row, index) => `${index}`,
  caption: "Handles on this channel, those that lag most first",
  columns: [
    { id: "client", title: "Client", kind: "name", value: (row) => row.client || "(no client)" },
    { id: "worker", title: "Process", kind: "number", value: (row) => row.owner.pid ?? 0, text: (value) => (value ? String(value) : "gone") },
    { id: "lag", title: "Lag", kind: "number", value: (row) => row.lag ?? 0, text: (value, row) => (row.lag === null ? "–" : count(value)) },
    { id: "lost", title: "Lost", kind: "number", value: (row) => row.lost, text: count },
    { id: "state", title: "State", value: (row) => row.state + (row.by_pattern ? ", by pattern" : ""), wide: true },
  ],
});

function showFigures() {
  const { overview } = look;
  const { totals, memory } = overview;
  const last = perSecond().at(-1);
  const full = [...overview.capacities].sort((a, b) => b.used / (b.capacity || 1) - a.used / (a.capacity || 1))[0];
  const figures = [
    ["messages/s", last ? rate(last.published) : "…"],
    ["published", count(totals.published_total)],
    ["missed", count(totals.missed_total)],
    ["channels", count(totals.channels + totals.broadcasts)],
    ["members", count(totals.members)],
    ["handles", count(totals.handles)],
    ["processes", count(overview.processes)],
    ["memory in use", `${Math.round(100 * (1 - memory.free / (memory.total || 1)))} %`],
    [`fullest: ${full.what}`, `${Math.round((100 * full.used) / (full.capacity || 1))} %`],
  ];
  at("figures").replaceChildren(...figures.map(([what, value]) => element("div", {}, element("dt", {}, what), element("dd", {}, value))));
}

// ---- plots

/** Messages a second between each two looks at one segment. */
function perSecond() {
  const found = [];
  for (let index = 1; index < samples.length; index++) {
    const [old, now] = [samples[index - 1], samples[index]];
    const seconds = now.monotonic - old.monotonic;
    if (old.identity !== now.identity || seconds <= 0) continue;
    const per = (what) => Math.max(0, now[what] - old[what]) / seconds;
    found.push({ at: now.at, published: per("published"), missed: per("missed"), evicted: per("evicted") });
  }
  return found;
}

function showPlots() {
  plot("throughput", perSecond(), [["published", "published"], ["missed", "missed"], ["evicted", "given up early"]], rate);
  const uses = [["messages", "messages"], ["records", "records"], ["pages", "index"], ["continued", "long ones"], ["held", "being written"]];
  stack("memory", samples.map((sample) => ({ at: sample.at, ...sample.memory })), uses, "total", bytes);
}

// ---- one channel's messages

function open(row, key) {
  tail?.close();
  shown = { key, namespace: row.namespace ?? "", name: row.name, kind: row.kind };
  at("tail").hidden = false;
  at("tail-name").textContent = plain(nameOf(row));
  at("log").replaceChildren();
  at("tail-detail").textContent = "";
  listeners = [];
  lastId = "";
  handles.show(listeners);
  pause(false);
  showChannels();
  at("tail").focus();
}

function follow() {
  const query = new URLSearchParams({ namespace: shown.namespace, channel: shown.name, kind: shown.kind, after: lastId });
  tail = new EventSource(`/tail?${query}`);
  const on = (event, act) =>
    tail.addEventListener(event, (told) => {
      lastId = told.lastEventId || lastId;
      act(JSON.parse(told.data));
    });
  on("message", (message) => {
    const cut = message.cut ? ` … and ${count(message.cut)} more characters` : "";
    const as = message.as === "base64" ? "base64: " : "";
    write(element("span", { class: "id" }, message.id), as + plain(message.data) + cut);
  });
  on("missed", (missed) => note(`${count(missed)} missed: overwritten before they could be shown`));
  on("skipped", (left) => note(`${count(left)} skipped: they come faster than anybody reads`));
  on("anew", () => note("the channel was made anew"));
  on("gone", (why) => note(plain(why)));
  on("detail", (detail) => {
    listeners = detail.handles;
    handles.show(listeners);
    const parts = [some(detail.subscribers_in_all, "subscriber"), some(detail.channel.handles, "handle"), `${some(detail.channel.retained, "message")} kept, ${bytes(detail.retained_bytes)}`];
    if (detail.members.length) parts.push(detail.members.length === 200 ? "200 members or more" : some(detail.members.length, "member"));
    at("tail-detail").textContent = parts.join(", ");
  });
}

function write(...parts) {
  const log = at("log");
  const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  log.append(element("li", {}, ...parts));
  while (log.children.length > LINES) log.firstChild.remove();
  if (follows) log.scrollTop = log.scrollHeight;
}

function note(text) {
  write(element("span", { class: "note" }, text));
}

function pause(wanted) {
  const button = at("tail-pause");
  button.setAttribute("aria-pressed", String(wanted));
  button.textContent = wanted ? "Go on" : "Pause";
  tail?.close();
  tail = null;
  if (!wanted) follow();
}

function shut() {
  tail?.close();
  tail = shown = null;
  at("tail").hidden = true;
  showChannels();
  at("wanted").focus();
}

at("tail-pause").addEventListener("click", () => pause(at("tail-pause").getAttribute("aria-pressed") !== "true"));
at("tail-close").addEventListener("click", shut);
at("wanted").addEventListener("input", showChannels);
channels.onsort = showChannels;
handles.onsort = () => handles.show(listeners);
processes.onsort = members.onsort = () => look?.overview && showRest();
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !event.ctrlKey && !event.metaKey && document.activeElement !== at("wanted")) {
    event.preventDefault();
    at("wanted").focus();
  } else if (event.key === "Escape" && document.activeElement === at("wanted")) {
    at("wanted").value = "";
    showChannels();
  } else if (event.key === "Escape" && shown) {
    shut();
  }
});

// ---- the whole

function showRest() {
  processes.show(look.processes);
  members.show(look.members);
  const all = look.overview.totals.members;
  at("presence-count").textContent = `${some(all, "member")} in ${look.groups.length === 200 ? "200 channels or more" : some(look.groups.length, "channel")}` + (all > look.members.length ? `; ${count(look.members.length)} are shown` : "");
}

function status(text, bad = false) {
  if (at("status").textContent !== text) at("status").textContent = text; // not read aloud again and again
  at("status").classList.toggle("bad", bad);
}

function show() {
  if (look.gone !== null) {
    status(plain(look.gone), true);
    return;
  }
  const { overview } = look;
  status(overview.current ? `live, layout ${overview.layout}, ${bytes(overview.size)}` : "the name was removed; whoever is attached goes on", !overview.current);
  at("name").textContent = plain(overview.name);
  document.title = `${plain(overview.name)} · hypern-shm`;
  at("problems").hidden = look.problems.length === 0;
  at("problems").textContent = look.problems.map((problem) => `could not be read: ${plain(problem)}`).join("; ");
  takeRates();
  showFigures();
  showPlots();
  showChannels();
  showRest();
}

const events = new EventSource("/events");
events.addEventListener("sample", (told) => {
  samples.push(JSON.parse(told.data));
  samples = samples.slice(-KEPT);
});
events.addEventListener("look", (told) => {
  look = JSON.parse(told.data);
  show();
});
events.addEventListener("error", () => status("no connection; trying again …", true));
