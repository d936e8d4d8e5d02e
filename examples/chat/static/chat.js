// One page of the chat: an EventSource for what happens, a POST for what is said. Text only ever becomes text nodes.
"use strict";

const $ = (id) => document.getElementById(id);
const names = ["Ada", "Grace", "Edsger", "Barbara", "Alan", "Radia", "Leslie", "Margaret", "Ken", "Frances"];

let room = new URLSearchParams(location.search).get("room") || "lobby";
let name = new URLSearchParams(location.search).get("name") || sessionStorage.getItem("name")
  || names[Math.floor(Math.random() * names.length)];
let source = null;   // the stream of this stay
let me = null;       // who we are in it, as its worker told us
let present = null;  // client → member, as last told; null until we know

const colours = new Map();
const tally = new Map();

// A tag with a worker's pid; each pid keeps its colour as long as the page lives.
function worker(pid) {
  pid = String(pid);
  if (!colours.has(pid)) colours.set(pid, `w${colours.size % 6}`);
  return element("span", `worker ${colours.get(pid)}`, pid);
}

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function add(line) {
  const log = $("log");
  const follow = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  log.append(line);
  while (log.childElementCount > 500) log.firstElementChild.remove();
  if (follow) log.scrollTop = log.scrollHeight;
}

function note(...children) {
  add(element("li", "note", ...children));
}

function showMessage(message) {
  const at = new Date(message.at * 1000);
  const time = element("time", "", at.toLocaleTimeString([], {hour: "2-digit", minute: "2-digit"}));
  time.dateTime = at.toISOString();
  const meta = element("div", "meta", element("span", "who", message.name), time,
    element("span", "taken", "taken by ", worker(message.pid)));
  add(element("li", me && message.client === me.client ? "mine" : "", meta, element("div", "text", message.text)));
  tally.set(message.pid, (tally.get(message.pid) || 0) + 1);
  $("tally").replaceChildren("Messages taken:",
    ...[...tally].map(([pid, count]) => element("span", "", worker(pid), ` × ${count}`)));
}

function showMembers(members) {
  const now = new Map(members.map((member) => [member.client, member]));
  if (present) {
    for (const [client, member] of now) {
      if (!present.has(client)) note(`${member.name} joined on `, worker(member.pid));
    }
    for (const [client, member] of present) {
      if (!now.has(client)) note(`${member.name} left `, worker(member.pid));
    }
  }
  present = now;
  $("count").textContent = `(${members.length})`;
  $("members").replaceChildren(...members.map((member) => {
    const self = me && member.client === me.client;
    return element("li", "", element("span", "who", member.name + (self ? " (you)" : "")), worker(member.pid));
  }));
}

function showRooms(rooms) {
  const focused = document.activeElement && document.activeElement.dataset.room;
  $("rooms").replaceChildren(...rooms.map((each) => {
    const button = element("button", "", element("span", "", each.room), element("span", "", String(each.members)));
    button.type = "button";
    button.dataset.room = each.room;
    button.setAttribute("aria-label", `${each.room}, ${each.members} online`);
    if (each.room === room) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => enter(each.room));
    return element("li", "", button);
  }));
  if (focused) {
    const again = [...$("rooms").querySelectorAll("button")].find((button) => button.dataset.room === focused);
    if (again) again.focus();
  }
}

function enter(next) {
  room = next;
  $("log").replaceChildren();
  tally.clear();
  $("tally").replaceChildren();
  connect();
}

function connect() {
  if (source) source.close();
  me = present = null;
  history.replaceState(null, "", `?room=${encodeURIComponent(room)}`);
  $("room-title").textContent = `# ${room}`;
  $("status").textContent = "connecting …";
  source = new EventSource(`stream?room=${encodeURIComponent(room)}&name=${encodeURIComponent(name)}`);
  source.addEventListener("hello", (event) => {
    const before = me;
    me = JSON.parse(event.data);
    present = null;
    $("status").replaceChildren("live, your stream is on worker ", worker(me.pid));
    if (before) note("your worker went away; you are back on ", worker(me.pid));
  });
  source.addEventListener("message", (event) => showMessage(JSON.parse(event.data)));
  source.addEventListener("members", (event) => showMembers(JSON.parse(event.data)));
  source.addEventListener("rooms", (event) => showRooms(JSON.parse(event.data)));
  source.addEventListener("error", () => {  // the browser tries again by itself, on whatever worker
    $("status").textContent = "connection lost, trying again …";
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 2000);
  });
}

async function say(text) {
  const body = JSON.stringify({room, client: me && me.client, text});
  const response = await fetch("say", {method: "POST", headers: {"Content-Type": "application/json"}, body});
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

$("say-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text) return;
  $("text").value = "";
  try {
    const answer = await say(text);
    const pages = answer.reached === 1 ? "1 page" : `${answer.reached} pages`;
    $("sent").replaceChildren("taken by worker ", worker(answer.pid), ` and delivered to ${pages}`);
  } catch (error) {
    $("text").value = text;
    $("sent").textContent = `not sent: ${error.message}`;
  }
});

$("name-form").addEventListener("submit", (event) => {
  event.preventDefault();
  name = $("name").value.trim() || name;
  sessionStorage.setItem("name", name);
  connect();
  $("text").focus();
});

$("room-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const next = $("new-room").value.trim();
  $("new-room").value = "";
  enter(next);
  $("text").focus();
});

addEventListener("pagehide", () => source && source.close());
$("name").value = name;
sessionStorage.setItem("name", name);
connect();
