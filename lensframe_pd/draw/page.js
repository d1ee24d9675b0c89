"use strict";
(async () => {
const $ = id => document.getElementById(id), view = $("view"), now = () => performance.now();
const times = {start: now()};
const inflate = async id => {
  const bytes = Uint8Array.from(atob($(id).textContent), c => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
};
const say = (text, label, act) => {
  $("say").replaceChildren(text);
  if (!act) return;
  const button = document.createElement("button");
  button.textContent = label; button.onclick = () => { say(""); act(); };
  $("say").append(button);
};
const ASK = 1500, REFUSE = 5000, MANY = 800;
const D = JSON.parse(await inflate("data"));
const R = D.rows.length, around = i => { const found = []; for (let b = i; b >= 0; b = D.boxes[b].outer) found.unshift(b); return found; };
const stacks = D.inner.map(around), above = D.boxes.map((_, b) => around(b));
const members = D.boxes.map(() => []); stacks.forEach((s, i) => s.forEach(b => members[b].push(i)));

// ---- what is open; a thing seen is a row's number, or -1 - the number of a shut box
let opened = new Set(D.opened);
const seen = (i, open = opened) => { const shut = stacks[i].find(b => !open.has(b)); return shut === undefined ? i : -1 - shut; };
const count = open => { const found = new Set(); for (let i = 0; i < R; i++) found.add(seen(i, open)); return found.size; };
const idOf = thing => thing < 0 ? "m" + (-1 - thing) : "n" + thing;
const toDepth = k => new Set(D.boxes.flatMap((box, b) => box.depth < k ? [b] : []));

// ---- graph text of what is seen
function dot(open) {
  const lines = ["digraph {", D.head], things = new Set();
  for (let i = 0; i < R; i++) things.add(seen(i, open));
  if (things.size > MANY) lines.push("nslimit=1; nslimit1=1; mclimit=0.3; splines=line;");
  const root = {boxes: new Map(), things: []};
  for (const thing of things) {
    let at = root;
    const holders = thing < 0 ? above[-1 - thing].slice(0, -1) : stacks[thing];
    for (const b of holders) { if (!at.boxes.has(b)) at.boxes.set(b, {boxes: new Map(), things: []}); at = at.boxes.get(b); }
    at.things.push(thing);
  }
  const put = at => {
    for (const t of at.things) lines.push(`${idOf(t)} [id=${idOf(t)} tooltip=" " ${t < 0 ? D.boxes[-1 - t].dot : D.rows[t]}];`);
    for (const [b, inside] of at.boxes) {
      lines.push(`subgraph cluster_m${b} { id=m${b}; tooltip=" "; ${D.cluster} label=${D.boxes[b].title};`);
      put(inside); lines.push("}");
    }
  };
  put(root);
  const edges = new Map();
  for (const [a, b, said, carried] of D.edges) {
    const x = seen(a, open), y = seen(b, open);
    if (x === y && !(carried && x === a && y === b)) continue;
    const key = idOf(x) + " -> " + idOf(y);
    const where = things.size > MANY ? "xlabel" : carried ? "label" : "labelangle=-40 labeldistance=1.6 headlabel";
    const label = said && x >= 0 && y >= 0 ? `${where}=${said}` : "";
    const entry = edges.get(key) ?? {labels: new Set(), carried: true};
    entry.labels.add(label); entry.carried &&= Boolean(carried); edges.set(key, entry);
  }
  for (const [key, {labels, carried}] of edges)
    for (const label of labels) lines.push(`${key} [${label} ${carried ? D.carried : ""}];`);
  lines.push("}");
  return lines.join("\n");
}

// ---- layout: one job at a time in a worker, a newer one ends the older
let worker = null, busy = null, source = null;
async function start() {
  source ??= URL.createObjectURL(new Blob([await inflate("lib"), D.work], {type: "text/javascript"}));
  const made = new Worker(source);
  await new Promise((ok, no) => { made.onmessage = ok; made.onerror = e => no(new Error(e.message || "the worker did not start")); });
  return made;
}
async function layout(text) {
  if (busy) { worker?.terminate(); worker = null; busy(null); busy = null; }
  let mine;
  const result = new Promise(ok => { busy = mine = ok; });
  const ready = worker ?? await start();
  if (busy !== mine) { if (ready !== worker) ready.terminate(); return null; }
  worker = ready;
  worker.onmessage = e => { if (busy === mine) busy = null; mine(e.data); };
  worker.onerror = e => { if (busy === mine) busy = null; worker = null; mine({error: e.message || "the layout ended"}); };
  worker.postMessage(text);
  const answer = await result;
  if (answer?.error && text.includes("constraint=false")) return layout(text.replaceAll("constraint=false", ""));
  if (answer?.error) throw new Error(answer.error);
  return answer;
}

// ---- camera: left and top in the picture's units, and points of the screen a unit
let cam = null, full = [0, 0];
const svg = () => view.querySelector("svg");
const aim = () => { const b = view.getBoundingClientRect(); svg().setAttribute("viewBox", [cam.x, cam.y, b.width / cam.k, b.height / cam.k].join(" ")); };
function fit(least = 0) {
  const b = view.getBoundingClientRect(), [w, h] = full, whole = Math.min(b.width / w, b.height / h, 1.5) * .97;
  const k = Math.max(whole, Math.min(least, b.width / w * .97));
  cam = {k, x: (w - b.width / k) / 2, y: k > whole ? -8 / k : (h - b.height / k) / 2};
  aim();
}
const middle = id => { const e = view.querySelector("#" + id); if (!e) return null; const r = (e.querySelector("text") ?? e).getBoundingClientRect(); return {x: r.x + r.width / 2, y: r.y + r.height / 2}; };
function bring(id) {
  const at = middle(id), b = view.getBoundingClientRect();
  if (!at || at.x > b.left + 20 && at.x < b.right - 20 && at.y > b.top + 20 && at.y < b.bottom - 20) return;
  cam.x += (at.x - b.left - b.width / 2) / cam.k; cam.y += (at.y - b.top - b.height / 2) / cam.k; aim();
}
const LINK = /^(https?:|mailto:)/i;
function clean(root) {
  for (const e of [root, ...root.querySelectorAll("*")]) {
    if (/^(script|foreignobject|image|use|style|iframe)$/i.test(e.localName)) { e.remove(); continue; }
    for (const a of [...e.attributes]) {
      if (/^on/i.test(a.name) || /href$/i.test(a.name) && !LINK.test(a.value.trim())) e.removeAttribute(a.name);
    }
    if (e.localName === "title") e.remove();
    if (e.localName === "a" && e.hasAttribute("xlink:href")) { e.setAttribute("target", "_blank"); e.setAttribute("rel", "noopener noreferrer"); }
  }
}
async function show(open, anchor) {
  const began = now(), before = cam && anchor && middle(anchor);
  let answer;
  try { answer = await layout(dot(open)); } catch (error) { say(`This could not be laid out: ${error.message}`); throw error; }
  if (!answer) return false;
  const parsed = new DOMParser().parseFromString(answer.svg, "image/svg+xml");
  if (parsed.querySelector("parsererror")) { say("This could not be laid out: the picture is not well formed."); throw new Error("svg"); }
  const made = document.importNode(parsed.documentElement, true);
  clean(made);
  full = made.getAttribute("viewBox").split(/[ ,]+/).slice(2).map(Number);
  made.removeAttribute("width"); made.removeAttribute("height"); made.setAttribute("preserveAspectRatio", "xMinYMin meet");
  view.classList.remove("still"); view.replaceChildren(made);
  opened = open;
  if (cam) aim(); else fit(.6);
  const after = before && middle(anchor);
  if (after) { cam.x += (after.x - before.x) / cam.k; cam.y += (after.y - before.y) / cam.k; aim(); }
  $("n").textContent = `${made.querySelectorAll("g.node").length} boxes`;
  $("depth").value = "";
  paint(); mark(selected); hits();
  times.show = now() - began; times.layout = answer.ms;
  return true;
}

// ---- fold state as deviations from the first one, in the address
const first = new Set(D.opened);
const state = open => { const more = [...open].filter(b => !first.has(b)), less = [...first].filter(b => !open.has(b)); return `#open=${more.join(",")}&shut=${less.join(",")}`; };
const stateOf = hash => {
  const found = new Set(first), part = name => (new RegExp(`${name}=([0-9,]*)`).exec(hash)?.[1] ?? "").split(",").filter(Boolean).map(Number);
  for (const b of part("open")) if (b < D.boxes.length) found.add(b);
  for (const b of part("shut")) found.delete(b);
  return found;
};
async function change(open, anchor) {
  const n = count(open);
  if (n > REFUSE) return say(`That would be ${n} boxes: more than anybody can read. Open less, or roll() or collapse() first.`);
  if (n > ASK) return new Promise(ok => say(`That would be ${n} boxes and take a while. `, "draw them", () => ok(go(open, anchor))));
  return go(open, anchor);
}
async function go(open, anchor) {
  say("");
  if (await show(open, anchor)) try { history.pushState(null, "", state(open)); } catch { /* an iframe of a notebook has no history */ }
}
addEventListener("popstate", () => show(stateOf(location.hash)));
const toggle = b => {
  const open = new Set(opened);
  if (open.has(b)) { for (const o of open) if (above[o].includes(b)) open.delete(o); } else open.add(b);
  return change(open, "m" + b);
};

// ---- colours
const text = v => v === null || v === undefined ? "" : String(v);
const PREFIX = {18: "E", 15: "P", 12: "T", 9: "G", 6: "M", 3: "k", 0: "", "-3": "m", "-6": "\u00b5", "-9": "n", "-12": "p"};
function quantity(n, unit = "") {
  if (n === null || n === undefined || Number.isNaN(n)) return "?";
  let power = n ? 3 * Math.floor(Number(n.toExponential(2).split("e")[1]) / 3) : 0;
  if (!(power in PREFIX) || power < 0 && !unit) power = 0;
  return `${Number((n / 10 ** power).toPrecision(3))} ${PREFIX[power]}${unit}`.trim();
}
const value = (thing, column) => {
  const {cells, numeric, sum, timed, name} = column;
  if (thing >= 0) return timed && D.given[thing] && !cells[thing] ? null : cells[thing];
  const box = D.boxes[-1 - thing];
  if (name in box.sums) return box.sums[name];
  const inside = members[-1 - thing].map(i => cells[i]);
  if (sum && numeric) return inside.reduce((a, b) => a + (b ?? 0), 0);
  return inside.every(v => v === inside[0]) ? inside[0] : null;
};
const luminance = c => [.2126, .7152, .0722].reduce((s, w, i) => { const v = parseInt(c.slice(1 + 2 * i, 3 + 2 * i), 16) / 255; return s + w * (v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); }, 0);
const between = p => {
  const at = p * (D.scale.length - 1), k = Math.min(Math.floor(at), D.scale.length - 2);
  return "#" + [1, 3, 5].map(i => { const [a, b] = [D.scale[k], D.scale[k + 1]].map(c => parseInt(c.slice(i, i + 2), 16)); return Math.round(a + (b - a) * (at - k)).toString(16).padStart(2, "0"); }).join("");
};
const swatch = (color, words) => { const s = document.createElement("span"), i = document.createElement("i"); i.style.background = color; s.append(i, words); return s; };
function paint() {
  const column = D.columns[Number($("color").value)], nodes = [...view.querySelectorAll("g.node")];
  const things = nodes.map(g => g.id[0] === "m" ? -1 - Number(g.id.slice(1)) : Number(g.id.slice(1)));
  const key = [];
  let color = () => "";
  if ($("color").value === "") key.push(...D.key.map(([c, words]) => swatch(c, words)));
  else {
    const values = things.map(t => value(t, column)), present = values.filter(v => v !== null && v !== undefined && v !== "");
    if (column.numeric) {
      const finite = present.filter(Number.isFinite);
      const low = finite.reduce((a, b) => Math.min(a, b), Infinity), high = finite.reduce((a, b) => Math.max(a, b), -Infinity);
      color = v => Number.isFinite(v) ? between(high > low ? (v - low) / (high - low) : 0) : D.neutral;
      if (finite.length) {
        const bar = document.createElement("i"); bar.className = "bar"; bar.style.background = `linear-gradient(to right, ${D.scale.join(", ")})`;
        key.push(quantity(low, column.unit), bar, quantity(high, column.unit));
      }
    } else if (present.length && present.every(v => /^#[0-9a-f]{6}$/i.test(v))) color = v => v || D.neutral;
    else {
      const kinds = [...new Set(present.map(text))], of = new Map(kinds.map((v, k) => [v, D.categories[k % D.categories.length]]));
      color = v => of.get(text(v)) ?? D.neutral;
      key.push(...kinds.slice(0, 12).map(v => swatch(of.get(v), v.slice(0, 40))));
      if (kinds.length > 12) key.push(`and ${kinds.length - 12} more`);
    }
    if (present.length < values.length) key.push(swatch(D.neutral, "no value"));
    nodes.forEach((g, k) => fill(g, color(values[k])));
  }
  if ($("color").value === "") nodes.forEach(g => fill(g, ""));
  $("key").replaceChildren(...key);
}
function fill(g, color) {
  for (const p of g.querySelectorAll("path, polygon")) if (p.getAttribute("fill") !== "none") p.style.fill = color;
  const ink = color ? luminance(color) > .26 ? "#1d2733" : "#fff" : "";
  for (const t of g.querySelectorAll("text")) t.style.fill = ink;
}

// ---- what a row or a module is
let selected = null;
function mark(id) { view.querySelectorAll(".on").forEach(e => e.classList.remove("on")); selected = id; if (id) view.querySelector("#" + id)?.classList.add("on"); }
function table(pairs) {
  const t = document.createElement("table");
  for (const [name, cell] of pairs) {
    const r = t.insertRow(), th = document.createElement("th"); th.textContent = name; r.append(th);
    const td = r.insertCell();
    if (typeof cell === "string" && LINK.test(cell)) { const a = document.createElement("a"); a.href = cell; a.target = "_blank"; a.rel = "noopener noreferrer"; a.textContent = cell; td.append(a); }
    else td.textContent = cell;
  }
  return t;
}
const head = words => { const h = document.createElement("h2"); h.textContent = words; return h; };
const ofBox = b => [head(D.boxes[b].facts.module), table([...Object.entries(D.boxes[b].facts), ...Object.entries(D.boxes[b].sums).map(([c, v]) => [c, quantity(v, D.columns.find(x => x.name === c)?.unit)]), ["rows", members[b].length]])];
const ofRow = i => [head(D.labels[i]), table(D.columns.map(c => [c.name, c.unit && c.numeric && c.cells[i] !== null ? quantity(c.cells[i], c.unit) : text(c.cells[i])]).filter(([, v]) => v !== "" && v !== "{}"))];
function tell(id) {
  const k = Number(id.slice(1)), box = id[0] === "m" ? k : D.inner[k];
  $("row").replaceChildren(...(id[0] === "m" ? [] : ofRow(k)), ...(box >= 0 ? [...(id[0] === "m" ? [] : [head("in the module")]), ...ofBox(box)] : []));
  mark(id);
}

// ---- pointer and keyboard
let down = null;
view.addEventListener("pointerdown", e => { if (cam && e.button === 0) down = {x: e.clientX, y: e.clientY, cx: cam.x, cy: cam.y, moved: false}; });
addEventListener("pointermove", e => {
  if (!down) return;
  const dx = e.clientX - down.x, dy = e.clientY - down.y;
  down.moved ||= Math.hypot(dx, dy) > 4;
  if (down.moved) { cam.x = down.cx - dx / cam.k; cam.y = down.cy - dy / cam.k; aim(); }
});
let dragged = false;
addEventListener("pointerup", () => { dragged = Boolean(down?.moved); down = null; });
view.addEventListener("wheel", e => {
  if (!cam) return;
  e.preventDefault();
  const b = view.getBoundingClientRect(), s = Math.exp(-e.deltaY / 500), x = e.clientX - b.left, y = e.clientY - b.top;
  cam.x += x / cam.k * (1 - 1 / s); cam.y += y / cam.k * (1 - 1 / s); cam.k *= s; aim();
}, {passive: false});
view.addEventListener("click", e => {
  const g = e.target.closest("g.node, g.cluster");
  if (!g || !cam || dragged) return;
  const link = e.target.closest("a");
  if (link && LINK.test(link.getAttribute("xlink:href") ?? "")) return;
  tell(g.id);
  const title = g.classList.contains("cluster") && e.target.localName === "text";
  if (g.id[0] === "m" && (title || g.classList.contains("node"))) toggle(Number(g.id.slice(1)));
});
view.addEventListener("keydown", e => {
  const here = selected && view.querySelector("#" + selected);
  if (e.key === "Enter" && here) { if (selected[0] === "m") toggle(Number(selected.slice(1))); tell(selected); return; }
  const d = {ArrowDown: [0, 1], ArrowUp: [0, -1], ArrowLeft: [-1, 0], ArrowRight: [1, 0]}[e.key];
  if (!d || !cam) return;
  e.preventDefault();
  const all = [...view.querySelectorAll("g.node, g.cluster")];
  if (!here) { tell(view.querySelector("g.node").id); bring(selected); return; }
  const {x, y} = middle(selected);
  let best = null, least = Infinity;
  for (const g of all) {
    if (g === here) continue;
    const at = middle(g.id), ahead = (at.x - x) * d[0] + (at.y - y) * d[1], aside = Math.abs((at.x - x) * d[1]) + Math.abs((at.y - y) * d[0]);
    if (ahead > 1 && ahead + 2 * aside < least) { least = ahead + 2 * aside; best = g; }
  }
  if (best) { tell(best.id); bring(best.id); }
});
document.addEventListener("keydown", e => {
  const typing = /^(input|select)$/i.test(document.activeElement?.localName ?? "");
  if (e.key === "/" && !typing) { e.preventDefault(); $("q").focus(); }
  if (e.key === "f" && !typing && cam) fit();
  if (e.key === "Escape") { $("q").value = ""; search(); view.focus(); }
});
addEventListener("resize", () => cam && aim());

// ---- search
let found = [], at = -1;
const hits = () => {
  view.querySelectorAll(".hit").forEach(e => e.classList.remove("hit"));
  for (const i of found) view.querySelector("#" + idOf(seen(i)))?.classList.add("hit");
};
const words = D.labels.map((l, i) => [l, ...D.columns.filter(c => D.searched.includes(c.name)).map(c => text(c.cells[i]))].join("\n").toLowerCase());
function search() {
  const q = $("q").value.trim().toLowerCase();
  found = q ? words.flatMap((w, i) => w.includes(q) ? [i] : []) : []; at = -1;
  $("found").textContent = q ? `${found.length} rows` : "";
  hits();
}
$("q").oninput = search;
$("q").onkeydown = async e => {
  if (e.key !== "Enter" || !found.length) return;
  at = (at + (e.shiftKey ? -1 : 1) + found.length) % found.length;
  $("found").textContent = `${at + 1} of ${found.length} rows`;
  const i = found[at], open = new Set([...opened, ...stacks[i]]);
  if (stacks[i].some(b => !opened.has(b))) await change(open);
  if (seen(i) === i) { tell("n" + i); bring("n" + i); }
};

// ---- begin
const option = (words, v) => new Option(words, v);
$("depth").add(option("", ""));
for (let k = 1, last = Math.max(0, ...D.boxes.map(b => b.depth)) + 1; k <= last; k++) {
  const n = count(toDepth(k)), o = option(`${k === last ? "all" : k} (${n} boxes)`, k);
  o.disabled = n > REFUSE; $("depth").add(o);
}
$("depth").onchange = e => e.target.value && change(toDepth(Number(e.target.value)));
$("color").add(option("kind", ""));
D.columns.forEach((c, k) => $("color").add(option(c.name, k)));
const chosen = D.columns.findIndex(c => c.name === D.color);
$("color").value = chosen < 0 ? "" : String(chosen);
$("color").onchange = paint;
$("fit").onclick = () => cam && fit();
window.lensframe = {times, D, opened: () => [...opened], count: () => count(opened), dot: () => dot(opened)};
const n = count(stateOf(location.hash));
const begin = async () => {
  await show(stateOf(location.hash));
  document.querySelector("header").hidden = false;
  aim(); fit(.6);
  times.ready = now(); window.ready = true;
};
if (n > REFUSE) say(`There are ${n} boxes even with every module shut: roll(), collapse() or keep() first.`);
else if (n > ASK) say(`There are ${n} boxes even with every module shut. `, "draw them", begin);
else await begin();
window.waiting = n > ASK;
})().catch(error => { window.failed = String(error?.stack ?? error); const say = document.getElementById("say"); if (!say.textContent) say.textContent = `This stays a picture: ${error?.message ?? error}`; });
