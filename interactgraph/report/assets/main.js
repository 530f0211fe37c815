// Puts the parts together: one state, and what changes with it.

const START = 3000; // edges shown at first
const FEWEST = 20;

const state = {
  // What the modules were found in, else the graph's own weight.
  strength: Math.max(0, data.partition ? data.strengths.indexOf(data.partition.strength) : 0),
  ranking: "pair", colour: "module", count: Math.min(START, edgeCount),
  modules: new Set(), node: -1, hover: -1, allModules: false, allCards: false,
};

const on = {
  module(m, add, scroll) {
    const alone = state.modules.size === 1 && state.modules.has(m);
    if (add) state.modules.has(m) ? state.modules.delete(m) : state.modules.add(m);
    else state.modules = new Set(alone && !scroll ? [] : [m]);
    if (state.node >= 0 && state.modules.size && !state.modules.has(moduleOf[state.node])) on.pick(-1);
    markModules(state);
    showEdges();
    drawDetail(state, on);
    drawCharts(state, on);
    if (scroll) $("canvas").scrollIntoView({ block: "center" });
  },
  pick(node, scroll) {
    state.node = node;
    state.hover = -1;
    hideTip();
    if (node >= 0 && state.modules.size && !state.modules.has(moduleOf[node])) {
      state.modules = new Set();
      markModules(state);
      showEdges();
    }
    drawDetail(state, on);
    if (node >= 0) view.reveal(node);
    else view.draw();
    if (scroll) $("canvas").scrollIntoView({ block: "center" });
  },
  hover(node, [x, y]) {
    if (node < 0) return hideTip();
    const tip = $("tip"), m = moduleOf[node];
    tip.replaceChildren(element("div", { class: "one" }, short(data.labels[node], 120)),
      element("div", {}, `${short(layerName(layerOf[node]), 40)} · ${m >= 0 ? `module ${m}` : "no module"}`));
    tip.hidden = false;
    tip.style.left = `${clamp(x + 14, 4, view.width - tip.offsetWidth - 4)}px`;
    tip.style.top = `${clamp(y + 16, 4, view.height - tip.offsetHeight - 4)}px`;
  },
};

const hideTip = () => { $("tip").hidden = true; };

// --- number of edges: the slider is logarithmic ---

const available = () => (data.strengths.length ? views[state.strength]().orders[state.ranking].length : 0);
const fewest = () => Math.min(FEWEST, available());

function toSlider(count) {
  const low = Math.max(fewest(), 1), high = Math.max(available(), low);
  return high === low ? 1000 : (1000 * Math.log(count / low)) / Math.log(high / low);
}

function fromSlider(at) {
  const low = Math.max(fewest(), 1), high = Math.max(available(), low);
  return Math.min(high, Math.round(low * (high / low) ** (at / 1000)));
}

function setCount(count) {
  state.count = clamp(count, fewest(), available());
  $("count").value = toSlider(Math.max(state.count, 1));
  showEdges();
}

function showEdges() {
  if (!data.strengths.length) return;
  view.choose();
  const strength = views[state.strength](), shown = view.chosen;
  const text = state.modules.size ? `${whole(shown.length)} edges inside` : `${whole(shown.length)} of ${whole(strength.edges)} edges`;
  const last = shown.length ? strength.size[shown[shown.length - 1]] : null;
  const down = last === null || state.ranking !== "all" ? "" : ` ≥ ${number(last)}`;
  const each = state.ranking === "pair" && !state.modules.size && data.pairs.length > 1 ? `, ${whole(shown.length / data.pairs.length)} a pair` : "";
  $("readout").textContent = text + down + each;
  $("count").setAttribute("aria-valuetext", $("readout").textContent);
}

function setStrength(s) {
  state.strength = s;
  $("strength").value = String(s);
  $("colour-box").hidden = !views[s]().signed;
  sayWhatIsLeftOut();
  setCount(state.count);
  drawDetail(state, on);
  drawCharts(state, on);
}

function sayWhatIsLeftOut() {
  const strength = views[state.strength](), held = strength.orders.pair.length;
  const left = strength.edges - held;
  $("left-out").textContent = left > 0
    ? `This page holds the ${whole(held)} strongest of ${whole(strength.edges)} edges, as many of each pair as there is room for; ` +
      "lists of a feature's strongest edges, blocks and distributions are made from all of them."
    : `All ${whole(strength.edges)} edges are in this page.`;
}

// --- theme ---

const darkSystem = matchMedia("(prefers-color-scheme: dark)");

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  $("theme").textContent = name === "dark" ? "☀ Light" : "☾ Dark";
  view.draw();
  drawCharts(state, on);
}

const otherTheme = () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");

// --- search ---

let foundNodes = [], foundAt = -1;

function showFound() {
  const list = $("found"), text = $("search").value;
  foundNodes = search(text);
  foundAt = foundNodes.length ? 0 : -1;
  list.replaceChildren(...foundNodes.map((node, k) => element("li", {
    role: "option", id: `found-${k}`, "aria-selected": String(k === foundAt),
    onpointerdown: (event) => { event.preventDefault(); takeFound(k); },
  }, chip(colourOf(node)), element("span", { class: "one" }, short(data.labels[node], 100)), element("span", { class: "small one" }, tail(briefLayer(layerOf[node]), 18)))));
  if (text.trim() && !foundNodes.length) list.append(element("li", { class: "small" }, "no feature, layer or sample holds this"));
  list.hidden = !text.trim();
  $("search").setAttribute("aria-expanded", String(!list.hidden));
}

function moveFound(step) {
  if (!foundNodes.length) return;
  foundAt = (foundAt + step + foundNodes.length) % foundNodes.length;
  [...$("found").children].forEach((item, k) => item.setAttribute("aria-selected", String(k === foundAt)));
  $("found").children[foundAt].scrollIntoView({ block: "nearest" });
  $("search").setAttribute("aria-activedescendant", `found-${foundAt}`);
}

function takeFound(k) {
  $("found").hidden = true;
  $("search").setAttribute("aria-expanded", "false");
  if (k >= 0) {
    on.pick(foundNodes[k]);
    $("canvas").focus({ preventScroll: true });
  }
}

// --- keys ---

function inColumn(step) {
  if (state.node < 0) return on.pick(order[firstOf[0]]);
  const l = layerOf[state.node], own = order.subarray(firstOf[l], firstOf[l] + data.layers[l].n);
  on.pick(own[clamp(own.indexOf(state.node) + step, 0, own.length - 1)]);
}

function across(way) {
  if (state.node < 0) return inColumn(0);
  const next = neighbours(views[state.strength](), state.node, way);
  if (next.length) on.pick(next[0].node);
}

function nextModule(step) {
  if (!modules.length) return;
  const now = state.modules.size ? Math.max(...state.modules) : step > 0 ? -1 : 0;
  on.module((now + step + modules.length) % modules.length, false);
}

function backToAll() {
  if ($("help").open) return;
  if (state.modules.size) {
    state.modules = new Set();
    markModules(state);
    showEdges();
    drawCharts(state, on);
  }
  on.pick(-1);
}

const KEYS = {
  ArrowUp: () => inColumn(-1), ArrowDown: () => inColumn(1),
  ArrowLeft: () => across("in"), ArrowRight: () => across("out"),
  "[": () => setCount(Math.round(state.count / 1.4)), "]": () => setCount(Math.ceil(state.count * 1.4)),
  m: () => nextModule(1), M: () => nextModule(-1),
  "+": () => view.zoomBy(1.5), "=": () => view.zoomBy(1.5), "-": () => view.zoomBy(1 / 1.5), 0: () => view.fit(),
  s: () => data.strengths.length > 1 && setStrength((state.strength + 1) % data.strengths.length),
  t: otherTheme, "/": () => $("search").focus(), "?": () => $("help").showModal(), Escape: backToAll,
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  const typing = event.target.closest("input, select, dialog");
  if (typing && !(event.key === "Escape" && event.target.id !== "search")) return;
  if (event.key.startsWith("Arrow") && event.target !== $("canvas") && event.target !== document.body) return;
  const action = KEYS[event.key];
  if (!action || !data.strengths.length) return;
  event.preventDefault();
  action();
});

$("search").addEventListener("input", showFound);
$("search").addEventListener("focus", showFound);
$("search").addEventListener("blur", () => takeFound(-1));
$("search").addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown") moveFound(1);
  else if (event.key === "ArrowUp") moveFound(-1);
  else if (event.key === "Enter") takeFound(foundAt);
  else if (event.key === "Escape") $("search").blur();
  else return;
  event.preventDefault();
});

// --- begin ---

const layerList = data.layers.map((layer) => `${layer.name} (${whole(layer.n)})`).join(" → ");
$("title").textContent = short(data.title.replace(/^.*\.(?=[^.]+$)/, ""), 200);
$("title").title = short(data.title, 300);
$("subtitle").textContent = short(layerList, 400);
document.title = `${short(data.title.replace(/^.*\.(?=[^.]+$)/, ""), 60)} · interactgraph`;
$("footer").textContent = `Made by interactgraph ${data.version}. Edges lead from left to right; a strength says how much a source feature drives a target feature over the data.`;

const view = new GraphView($("canvas"), state, on);
$("strength").append(...data.strengths.map((name, s) => element("option", { value: s }, short(name, 40))));
$("strength-box").hidden = data.strengths.length < 2;
$("strength").addEventListener("change", (event) => setStrength(Number(event.target.value)));
$("ranking").addEventListener("change", (event) => { state.ranking = event.target.value; setCount(state.count); });
$("colour").addEventListener("change", (event) => { state.colour = event.target.value; view.draw(); });
$("count").addEventListener("input", (event) => { state.count = fromSlider(Number(event.target.value)); showEdges(); });
$("zoom-in").addEventListener("click", () => view.zoomBy(1.6));
$("zoom-out").addEventListener("click", () => view.zoomBy(1 / 1.6));
$("zoom-fit").addEventListener("click", () => view.fit());
$("theme").addEventListener("click", otherTheme);
$("print").addEventListener("click", () => window.print());
$("help-open").addEventListener("click", () => $("help").showModal());
$("modules-all").addEventListener("click", () => { state.allModules = true; drawModules(state, on); });
$("cards-all").addEventListener("click", () => { state.allCards = true; drawCards(state, on); });
darkSystem.addEventListener("change", (event) => setTheme(event.matches ? "dark" : "light"));

// On paper everything is light, open and complete.
let themeBefore = null, openBefore = [];
window.addEventListener("beforeprint", () => {
  themeBefore = document.documentElement.dataset.theme;
  openBefore = [...document.querySelectorAll("details")].map((box) => [box, box.open]);
  for (const [box] of openBefore) box.open = true;
  setTheme("light");
  view.drawEdges(Infinity);
  view.drawOver();
});
window.addEventListener("afterprint", () => {
  for (const [box, open] of openBefore) box.open = open;
  if (themeBefore) setTheme(themeBefore);
});

drawFigures();
drawNotes();
drawRecipe();
drawModules(state, on);
drawDetail(state, on);
document.documentElement.dataset.theme = darkSystem.matches ? "dark" : "light";
$("theme").textContent = darkSystem.matches ? "☀ Light" : "☾ Dark";
if (data.strengths.length) {
  $("colour-box").hidden = !views[0]().signed;
  sayWhatIsLeftOut();
  setCount(state.count);
} else {
  $("readout").textContent = "no edges";
  view.draw();
}
// The graph comes first, what is below it when it has been seen.
requestAnimationFrame(() => setTimeout(() => {
  drawCharts(state, on);
  drawCards(state, on);
  document.documentElement.dataset.ready = "yes";
}));

// For tests and for those who script the page.
window.interactgraph = { state, view, views, nodeY, data, setCount, setStrength, setTheme, on };
