// What is said in words: figures, notes, recipe, modules, the chosen feature.

const LISTED = 40; // modules in the list before "show all"
const CARDS = 12;

const chip = (tint) => element("span", { class: "chip", style: { background: tint } });

function figure(value, label, kind = "", title = null) {
  return element("div", { class: `figure ${kind}`, title }, element("b", {}, value), element("span", {}, label));
}

const known = (values) => values.filter((v) => v !== null && v !== undefined);

function drawFigures() {
  const { run, partition } = data, tiles = [];
  if (partition) {
    const sure = partition.significant;
    tiles.push(figure(whole(modules.length), `modules, ${percent(partition.inside)} of the weight inside`));
    tiles.push(figure(number(partition.p_value), "p-value, held-out edges", sure === null ? "" : sure ? "good" : "bad",
      partition.significance || `z = ${number(partition.z_score)}`));
    tiles.push(figure(number(partition.agreement), `agreement of ${partition.n_runs} runs`, partition.agreement !== null && partition.agreement < 0.5 ? "bad" : ""));
  }
  const residuals = known(data.pairs.map((pair) => pair.completeness));
  if (residuals.length) {
    const worst = Math.max(...residuals);
    tiles.push(figure(number(worst), "completeness, worst pair", worst > 0.05 ? "bad" : "", "relative residual: the sum of attributions against the change they explain"));
  }
  const errors = known(data.pairs.map((pair) => pair.error));
  if (errors.length) {
    const worst = Math.max(...errors);
    tiles.push(figure(percent(worst), "error of strong edges, worst pair", worst > 0.3 ? "bad" : "",
      "relative standard error, median over the strongest hundredth of the edges"));
  }
  if (run.n_samples !== null) tiles.push(figure(whole(run.n_samples), "samples"));
  if (run.seconds !== null) tiles.push(figure(duration(run.seconds), "time of the run"));
  tiles.push(figure(whole(data.pairs.reduce((sum, pair) => sum + (pair.edges[0] || 0), 0)), `edges between ${whole(nodeCount)} features`));
  $("figures").replaceChildren(...tiles);
}

function duration(seconds) {
  if (seconds < 60) return `${number(seconds)}\u2009s`;
  const minutes = seconds / 60;
  return minutes < 60 ? `${number(minutes)}\u2009min` : `${number(minutes / 60)}\u2009h`;
}

function drawNotes() {
  const box = $("notes"), { notes } = data;
  box.classList.toggle("some", notes.length > 0);
  box.querySelector("summary").append(
    element("b", {}, notes.length ? `${notes.length} ${notes.length === 1 ? "note" : "notes"}` : "No notes"),
    element("span", { class: "one" }, notes.length ? short(notes[0], 300) : "nothing was found that makes this graph doubtful"));
  box.querySelector("ul").append(...notes.map((note) => element("li", { class: "text" }, note)));
}

function drawRecipe() {
  const box = $("recipe"), head = ["pair", "features", "edges", "how", "completeness residual", "standard error of strong edges"];
  box.querySelector("summary").append(element("b", {}, "Recipe"),
    element("span", { class: "one" }, known([data.run.method, ...new Set(known(data.pairs.map((pair) => pair.how)))]).join(", ")));
  const rows = data.pairs.map((pair) => element("tr", {},
    element("td", { class: "text" }, pairName(pair)),
    element("td", { class: "number" }, `${whole(data.layers[pair.source].n)} → ${whole(data.layers[pair.target].n)}`),
    element("td", { class: "number" }, whole(pair.edges[0] || 0)),
    element("td", {}, `${pair.how || "–"}${pair.drawn ? `, ${number(pair.drawn)} source features a sample` : ""}${
      pair.positions ? `, ${number(pair.positions)} target positions a sample` : ""
    }`),
    element("td", { class: "number" }, number(pair.completeness)),
    element("td", { class: "number" }, percent(pair.error))));
  const numeric = new Set([1, 2, 4, 5]);
  box.querySelector(".tables").append(
    element("table", {},
      element("thead", {}, element("tr", {}, ...head.map((name, k) => element("th", { class: numeric.has(k) ? "number" : null }, name)))),
      element("tbody", {}, ...rows)),
    element("dl", {}, ...[...data.recipe, ...partitionRecipe()].map(([name, value]) =>
      element("div", {}, element("dt", { class: "one" }, name), element("dd", { class: "text" }, value)))));
}

function partitionRecipe() {
  const p = data.partition;
  if (!p) return [];
  return [["modules: null model", p.null], ["modules: resolution", number(p.resolution)], ["modules: weighting", p.weighting],
    ["modules: strength", p.strength], ["modules: runs, seed", `${p.n_runs}, ${p.seed}`], ["modules: quality", number(p.quality)]];
}

// --- modules ---

const sizeOf = (module) => module.sizes.reduce((a, b) => a + b, 0);

/** How a module is spread over the layers. */
function spark(module) {
  const n = module.sizes.length, most = Math.max(...modules.flatMap((m) => m.sizes.map((s, l) => s / (data.layers[l].n || 1))), 1e-9);
  const picture = shape("svg", { class: "spark", viewBox: `0 0 ${n * 6} 14`, preserveAspectRatio: "none", "aria-hidden": "true" });
  module.sizes.forEach((size, l) => {
    const high = Math.max(13 * Math.sqrt(size / (data.layers[l].n || 1) / most), size ? 1 : 0.4);
    picture.append(shape("rect", { x: l * 6 + 0.6, y: 14 - high, width: 4.8, height: high, fill: module.colour }));
  });
  return picture;
}

/** What held-out edges say of a module: empty where it was not tested. */
function evidence(module) {
  if (module.p_value === null) return "";
  return `${module.p_value <= 0.05 ? "" : "no more than chance, "}p = ${number(module.p_value)}`;
}

function drawModules(state, on) {
  const p = data.partition;
  $("modules-count").textContent = p ? whole(modules.length) : "";
  const verdict = $("verdict");
  if (!p) verdict.textContent = "No modules were given; write the report with -m modules.json to see them.";
  else {
    const p_text = p.p_value === null ? "" : `p = ${number(p.p_value)}`;
    verdict.textContent = p.significant === false ? `No modular structure found (${p_text}); this is the best partition anyway.`
      : [p_text || p.significance, p.agreement === null ? "" : `agreement ${number(p.agreement)}`, `quality ${number(p.quality)}`].filter(Boolean).join(" · ");
    verdict.classList.toggle("bad", p.significant === false);
  }
  $("modules-all").hidden = state.allModules || modules.length <= LISTED;
  $("modules-all").textContent = `Show all ${modules.length} modules`;
  const shown = state.allModules ? modules : modules.slice(0, LISTED);
  const list = shown.map((module, m) => {
    const agreement = module.agreement === null ? "" : `, agreement ${number(module.agreement)}`;
    const told = evidence(module), chance = module.p_value !== null && module.p_value > 0.05;
    return element("li", {}, element("button", {
      type: "button", "aria-pressed": String(state.modules.has(m)), "data-module": m,
      title: `Module ${m}: ${sizeOf(module)} features, ${percent(module.inside)} of the weight of their edges stays inside${agreement}${told && `, ${told}`}`,
      onclick: (event) => on.module(m, event.ctrlKey || event.metaKey || event.shiftKey),
    }, chip(module.colour), element("span", { class: chance ? "chance" : null }, String(m)), spark(module),
    element("span", { class: "number" }, whole(sizeOf(module))), element("span", { class: "number" }, percent(module.inside))));
  });
  if (p && p.isolated) {
    list.push(element("li", { class: "small" }, `${whole(p.isolated)} features have no edges and belong to none`));
  }
  $("module-list").replaceChildren(...list);
}

function markModules(state) {
  for (const button of $("module-list").querySelectorAll("[data-module]")) {
    button.setAttribute("aria-pressed", String(state.modules.has(Number(button.dataset.module))));
  }
}

// --- one feature ---

function drawDetail(state, on) {
  const box = $("detail"), { node } = state;
  if (node < 0) {
    box.replaceChildren(...(state.modules.size === 1 ? moduleDetail([...state.modules][0], on) : overview(state, on)));
    return;
  }
  const l = layerOf[node], m = moduleOf[node];
  const sure = confidence && !Number.isNaN(confidence[node]) ? `, with it in ${percent(confidence[node])} of the runs` : "";
  const parts = [
    element("header", {}, element("p", { class: "name text", id: "feature-name" }, data.labels[node] || "(no label)"),
      element("button", { type: "button", "aria-label": "Back to the whole graph", onclick: () => on.pick(-1) }, "×")),
    element("p", { class: "where" }, chip(colourOf(node)), m >= 0 ? ` module ${m}${sure}` : " in no module"),
    element("p", { class: "where text" }, `feature ${node - firstOf[l]} of ${layerName(l)}`),
  ];
  const belongs = affinitiesOf(node);
  if (m >= 0 && belongs.length) {
    parts.push(element("p", { class: "where", id: "feature-affinity" }, "strength shared with ",
      ...belongs.flatMap(({ module, share, low, high }, k) => [k ? ", " : "", chip(colours[module]),
        ` module ${module}: ${percent(share)}${Number.isNaN(low) ? "" : ` (${percent(low)} to ${percent(high)})`}`]),
      roleOf(node) ? `; ${roleOf(node)}` : ""));
  }
  if (data.strengths.length) {
    const view = views[state.strength]();
    parts.push(element("p", { class: "where" }, `total |${short(view.name, 30)}| of its edges: ${number(view.total[node])}`));
    parts.push(...edgeList("Strongest inputs", neighbours(view, node, "in"), on), ...edgeList("Strongest outputs", neighbours(view, node, "out"), on));
  }
  const examples = data.examples ? data.examples[node] : [];
  if (examples.length) {
    parts.push(element("h3", {}, "Most active"),
      element("ul", { class: "examples" }, ...examples.map((text) => element("li", { class: "text" }, text))));
  }
  const drivers = data.drivers ? data.drivers[node] : [];
  if (drivers.length) {
    parts.push(element("h3", {}, "What drives it"),
      element("ul", { class: "examples" }, ...drivers.map((text) => element("li", { class: "text" }, text))));
  }
  box.replaceChildren(...parts);
  box.scrollTop = 0;
}

/** What the panel shows of one module that is isolated. */
function moduleDetail(m, on) {
  return [
    element("header", {}, element("p", { class: "name" }, chip(colours[m]), ` Module ${m}`),
      element("button", { type: "button", "aria-label": "Back to the whole graph", onclick: () => on.module(m, false) }, "×")),
    ...aboutModule(m, on, 5),
  ];
}

/** What it shows before anything is chosen: how to go on, and the strongest edges. */
function overview(state, on) {
  const parts = [element("h2", {}, "Look closer"), element("ul", { class: "hint" },
    element("li", {}, "Click a feature to see what drives it, what it drives and where it is most active; a module to see it alone."),
    element("li", {}, "Zoom in to read labels. ", element("kbd", {}, "/"), " searches, ", element("kbd", {}, "?"), " lists all keys."))];
  if (!data.strengths.length || !edgeCount) return parts;
  const view = views[state.strength](), only = state.modules;
  const strongest = view.orders.all.filter((e) => !only.size || (only.has(moduleOf[edgeSource[e]]) && only.has(moduleOf[edgeTarget[e]]))).slice(0, 12);
  const most = strongest.length ? view.size[strongest[0]] : 1;
  parts.push(element("h3", {}, "Strongest edges", element("span", { class: "small" }, short(view.name, 20))),
    element("ul", { class: "rows" }, ...strongest.map((e) => element("li", {},
      element("button", { type: "button", title: `${short(data.labels[edgeSource[e]], 200)} → ${short(data.labels[edgeTarget[e]], 200)}`, onclick: () => on.pick(edgeSource[e]) },
        chip(colourOf(edgeSource[e])), element("span", { class: "one" }, `${short(briefLabel(edgeSource[e]), 40)} → ${short(briefLabel(edgeTarget[e]), 40)}`),
        element("span", {}, number(view.weight[e])),
        element("span", { class: "bar" }, element("i", { class: view.weight[e] < 0 ? "negative" : null, style: { width: `${(100 * view.size[e]) / most}%` } })))))));
  return parts;
}

function edgeList(title, edges, on) {
  if (!edges.length) return [];
  const most = Math.abs(edges[0].weight) || 1;
  return [element("h3", {}, title, element("span", { class: "small" }, "± standard error")),
    element("ul", { class: "rows" }, ...edges.map((edge) => element("li", {},
      element("button", { type: "button", title: short(data.labels[edge.node], 300), onclick: () => on.pick(edge.node) },
        chip(colourOf(edge.node)), element("span", { class: "one" }, short(briefLabel(edge.node), 120)),
        element("span", {}, number(edge.weight), element("span", { class: "error" }, Number.isNaN(edge.error) ? "" : ` ± ${number(edge.error)}`)),
        element("span", { class: "bar" }, element("i", {
          class: edge.weight < 0 ? "negative" : null, style: { width: `${(100 * Math.abs(edge.weight)) / most}%` },
        }))))))];
}

// --- cards ---

/** Features of each module by layer, strongest first, as in the columns. */
const members = modules.map(() => data.layers.map(() => []));
for (const node of order) if (moduleOf[node] >= 0) members[moduleOf[node]][layerOf[node]].push(node);

/** Size, share inside, strongest features, where it is active, what the model does without it. */
function aboutModule(m, on, most) {
  const module = modules[m], rows = [], total = data.strengths.length ? views[0]().total : null;
  let best = -1;
  members[m].forEach((nodes, l) => {
    if (!nodes.length) return;
    if (best < 0 || (total && total[nodes[0]] > total[best])) best = nodes[0];
    rows.push(element("dt", { class: "one", title: short(layerName(l), 200) }, tail(briefLayer(l), 16)),
      element("dd", {}, ...nodes.slice(0, most).map((node) =>
        element("button", { type: "button", class: "one", title: short(data.labels[node], 300), onclick: () => on.pick(node, true) }, short(brief(node), 36))),
      nodes.length > most ? element("span", { class: "small" }, `and ${whole(nodes.length - most)} more`) : null));
  });
  const about = [`${whole(sizeOf(module))} features`, `${percent(module.inside)} of its weight inside`];
  if (module.agreement !== null) about.push(`agreement ${number(module.agreement)}`);
  if (evidence(module)) about.push(evidence(module));
  const example = best >= 0 && data.examples && data.examples[best].length ? data.examples[best][0] : null;
  return [
    element("p", { class: "small" }, about.join(" · ")),
    element("dl", {}, ...rows),
    example === null ? null : element("p", { class: "effects text" }, `${short(briefLabel(best), 40)} is most active: ${short(example, 160)}`),
    ...data.effects.filter((effect) => effect.module === m).map(effectTable),
  ].filter(Boolean);
}

function drawCards(state, on) {
  $("cards-title").hidden = !modules.length;
  const shown = state.allCards ? modules : modules.slice(0, CARDS);
  $("cards-all").hidden = shown.length === modules.length;
  $("cards-all").textContent = `Show all ${modules.length} modules`;
  $("cards").replaceChildren(...shown.map((module, m) =>
    element("article", { class: "card", style: { "--colour": module.colour } },
      element("header", {}, element("h3", {}, `Module ${m}`), element("button", { type: "button", onclick: () => on.module(m, false, true) }, "Isolate")),
      ...aboutModule(m, on, 3))));
}

/** What the model does without a module, next to random sets of as many features. */
function effectTable(effect) {
  const rows = effect.rows.map((row) => {
    const telling = row.control === null || Math.abs(row.without - row.control) > 2 * row.spread;
    const loss = telling && row.without < row.intact - 0.01 * Math.abs(row.intact);
    return element("tr", {}, element("td", { class: "text" }, row.what), element("td", { class: "number" }, number(row.intact)),
      element("td", { class: "number" }, loss ? element("b", {}, number(row.without)) : number(row.without)),
      element("td", { class: "number" }, row.control === null ? "–" : `${number(row.control)} ± ${number(Number(row.spread.toPrecision(1)))}`));
  });
  const head = ["measure", "intact", "without", "random sets"].map((name, k) => element("th", { class: k ? "number" : null }, name));
  return element("div", {}, element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows)),
    effect.samples ? element("p", { class: "effects text" }, `Moved most by samples ${effect.samples}`) : null);
}

// --- search ---

/** Features whose label, name or samples hold the text; whole labels come first. */
function search(text, most = 60) {
  const wanted = text.trim().toLowerCase(), ranked = [[], [], [], []];
  if (!wanted) return [];
  for (let node = 0; node < nodeCount; node++) {
    const label = lowered.labels[node];
    if (label === wanted || lowered.names[node] === wanted) ranked[0].push(node);
    else if (label.startsWith(wanted)) ranked[1].push(node);
    else if (label.includes(wanted) || lowered.names[node].includes(wanted)) ranked[2].push(node);
    else if (data.examples && lowered.examples[node].includes(wanted)) ranked[3].push(node);
  }
  return ranked.flat().slice(0, most);
}

const lowered = {
  get labels() { return cached(this, "labels", () => data.labels.map((text) => text.toLowerCase())); },
  get names() { return cached(this, "names", () => data.labels.map((_, node) => nodeName(node).toLowerCase())); },
  get examples() { return cached(this, "examples", () => data.examples.map((texts) => texts.join("\n").toLowerCase())); },
};

function cached(object, name, make) {
  const value = make();
  Object.defineProperty(object, name, { value });
  return value;
}
