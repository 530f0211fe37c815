// Charts beside the graph.

/** A card with a title, a line that says what is shown, and what is shown. */
function chart(title, about, size, ...content) {
  const box = element("section", { class: `chart ${size}` }, element("h2", {}, title));
  if (about) box.append(element("p", { class: "text" }, about));
  box.append(...content);
  return box;
}

/** Round numbers between two ends. */
function ticks(low, high, n = 5) {
  const raw = (high - low) / n || 1, unit = 10 ** Math.floor(Math.log10(raw));
  const step = unit * [1, 2, 5, 10].find((k) => k * unit >= raw * 0.999);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(k * step);
  return found;
}

function plot(width, height, x, y, { xTicks, yTicks, xText = number, yText = number, xLabel, yLabel }) {
  const picture = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  for (const value of yTicks) {
    picture.append(
      shape("path", { class: "axis", d: `M${x.range[0]},${y(value)}H${x.range[1]}` }),
      shape("text", { x: x.range[0] - 6, y: y(value) + 4, "text-anchor": "end" }, yText(value)));
  }
  for (const value of xTicks) {
    picture.append(
      shape("path", { class: "axis", d: `M${x(value)},${y.range[0]}v4` }),
      shape("text", { x: x(value), y: y.range[0] + 16, "text-anchor": "middle" }, xText(value)));
  }
  picture.append(shape("path", { class: "axis", d: `M${x.range[0]},${y.range[0]}H${x.range[1]}` }));
  if (xLabel) picture.append(shape("text", { x: (x.range[0] + x.range[1]) / 2, y: height - 2, "text-anchor": "middle" }, xLabel));
  if (yLabel) picture.append(shape("text", { x: x.range[0], y: y.range[1] - 8, "text-anchor": "start" }, yLabel));
  return picture;
}

function scale(low, high, from, to, change = (v) => v) {
  const a = change(low), b = change(high);
  const at = (v) => from + ((change(v) - a) / (b - a || 1)) * (to - from);
  at.range = [from, to];
  return at;
}

const path = (points) => points.map(([a, b], i) => `${i ? "L" : "M"}${a.toFixed(1)},${b.toFixed(1)}`).join("");

// Okabe and Ito's colours, as those of the modules, in an order of their own.
const SERIES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

function pairName(pair) {
  return `${briefLayer(pair.source)} → ${briefLayer(pair.target)}`;
}

// --- the charts ---

function heatMaps(state) {
  if (!data.pairs.length) return null;
  const low = rgb(colour("heat-low")), high = rgb(colour("heat-high")), middle = rgb(colour("accent"));
  const ramp = (v) => {
    const [a, b, t] = v < 0.5 ? [low, middle, v * 2] : [middle, high, v * 2 - 1];
    return a.map((c, i) => Math.round(c + (b[i] - c) * t));
  };
  const table = Array.from({ length: 256 }, (_, v) => ramp(v / 255));
  const box = element("div", { class: "heats" });
  data.heat.forEach((map, p) => {
    const { rows, columns } = map, image = map.images[state.strength];
    const full = 480, strip = 14, edge = 20, inner = full - edge;
    const canvas = element("canvas", { width: full, height: full, role: "img" });
    const paint = canvas.getContext("2d");
    if (rows && columns) {
      const small = element("canvas", { width: columns, height: rows }), dots = small.getContext("2d");
      const pixels = dots.createImageData(columns, rows), shade = unpacked(image.shade);
      shade.forEach((v, i) => {
        pixels.data.set(table[v], 4 * i);
        pixels.data[4 * i + 3] = 255;
      });
      dots.putImageData(pixels, 0, 0);
      paint.imageSmoothingEnabled = false;
      paint.drawImage(small, edge, edge, inner, inner);
    }
    const side = (l, put) => {
      const { n } = data.layers[l];
      for (let k = 0; k < n; k++) {
        paint.fillStyle = colourOf(order[firstOf[l] + k]);
        const at = Math.floor(edge + (k * inner) / n);
        put(at, Math.ceil(edge + ((k + 1) * inner) / n) - at);
      }
    };
    const pair = data.pairs[p];
    side(pair.source, (at, size) => paint.fillRect(at, 0, size, strip));
    side(pair.target, (at, size) => paint.fillRect(0, at, strip, size));
    const name = pairName(pair);
    canvas.setAttribute("aria-label", `Heat map of ${name}`);
    box.append(element("figure", { title: `largest block mean: ${number(image.largest)}` }, canvas,
      element("figcaption", { class: "one" }, name)));
  });
  const about = "Rows are target features, columns source features, both ordered by module (colours at the edges). " +
    `Shade: square root of the mean |${data.strengths[state.strength]}|, relative to the largest of the pair.`;
  return chart("Blocks", about, "wide", box);
}

function distributions(state) {
  if (!data.pairs.length) return null;
  const hist = data.histograms[state.strength], n = data.pairs.length;
  const row = n > 12 ? 22 : 34, width = 560, left = 150, height = n * row + 50;
  const x = scale(hist.low, hist.high, left, width - 12);
  const y = scale(0, 1, height - 34, 12);
  const exponents = [];
  for (let k = Math.ceil(hist.low); k <= Math.floor(hist.high); k++) exponents.push(k);
  const every = Math.ceil(exponents.length / 7);
  const picture = plot(width, height, x, y, {
    xTicks: exponents.filter((_, i) => i % every === 0), xText: (k) => `10${raised(k)}`, yTicks: [],
    xLabel: `|${short(data.strengths[state.strength], 30)}|`,
  });
  hist.counts.forEach((counts, p) => {
    const base = 12 + (p + 1) * row, most = Math.max(...counts, 1), step = (x.range[1] - x.range[0]) / counts.length;
    const points = counts.map((c, k) => [x.range[0] + (k + 0.5) * step, base - (c / most) * row * 1.25]);
    const tint = colour("accent");
    picture.append(
      shape("path", { d: `${path([[x.range[0], base], ...points, [x.range[1], base]])}Z`, fill: tint, "fill-opacity": 0.25, stroke: tint, "stroke-width": 1.2 }),
      shape("text", { x: left - 8, y: base - 2, "text-anchor": "end" }, short(pairName(data.pairs[p]), 26),
        shape("title", {}, `${pairName(data.pairs[p])}: ${whole(data.pairs[p].edges[state.strength])} edges`)));
  });
  return chart("Strengths of each pair", "How many edges have which strength, zeros left out; each row has its own height.", "", picture);
}

function modulesByLayer(state, on) {
  if (!modules.length) return null;
  const n = data.layers.length, width = 560, height = 300, left = 44;
  const x = scale(0, n, left, width - 8), y = scale(0, 1, height - 34, 14);
  const picture = plot(width, height, x, y, { xTicks: [], yTicks: [0, 0.25, 0.5, 0.75, 1], yText: (v) => `${Math.round(v * 100)}%` });
  const bar = Math.min(58, ((width - left) / n) * 0.72);
  data.layers.forEach((layer, l) => {
    let done = 0;
    const middle = x(l + 0.5);
    const add = (size, tint, text, module) => {
      if (!size) return;
      const high = y(done / layer.n), low = y((done + size) / layer.n);
      done += size;
      const part = shape("rect", { x: middle - bar / 2, y: low, width: bar, height: Math.max(high - low - 0.4, 0.3), fill: tint, class: module >= 0 ? "link" : null },
        shape("title", {}, `${text}: ${size} of ${layer.n} features of ${short(layer.name, 40)}`));
      if (module >= 0) part.addEventListener("click", (event) => on.module(module, event.ctrlKey || event.metaKey));
      if (state.modules.size && !state.modules.has(module)) part.setAttribute("opacity", 0.18);
      picture.append(part);
    };
    modules.forEach((module, m) => add(module.sizes[l], module.colour, `module ${m}`, m));
    add(layer.n - done, grey, "no module", -1);
    const room = Math.max(Math.floor((width - left) / n / 6), 4);
    picture.append(shape("text", { x: middle, y: height - 18, "text-anchor": "middle" }, tail(briefLayer(l), room), shape("title", {}, short(layer.name, 200))));
  });
  return chart("Modules in each layer", "Share of the features of each layer; grey: features without edges. Click one to isolate it.", "", picture);
}

/** The end of a name says more than its beginning. */
function tail(text, n) {
  const letters = [...short(text, 200)];
  return letters.length > n ? `…${letters.slice(letters.length - n + 1).join("")}` : letters.join("");
}

function lines(series, { xLabel, yLabel, logarithmic, marks = [], xText, whole: isWhole }) {
  const width = 560, height = 270, left = 52;
  const points = series.flatMap((one) => one.points).filter((p) => p[1] !== null);
  const levels = series.map((one) => one.level).filter((v) => v !== undefined && v !== null);
  const xs = points.map((p) => p[0]), ys = [...points.map((p) => p[1]), ...levels];
  const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys, isWhole ? 0 : Infinity), Math.max(...ys)];
  const change = logarithmic === "with zero" ? (v) => Math.log10(1 + v) : logarithmic ? Math.log10 : (v) => v;
  const x = scale(x0, x1, left, width - 12, change), y = scale(y0, y1 > y0 ? y1 : y0 + 1, height - 36, 24);
  let marksX = ticks(x0, x1, 6);
  if (logarithmic === "with zero") {
    marksX = x0 === 0 ? [0] : [];
    for (let k = 0; 10 ** k <= x1; k++) marksX.push(...[1, 2, 5].map((m) => m * 10 ** k).filter((v) => v >= x0 && v <= x1));
  } else if (logarithmic) marksX = [0.25, 0.35, 0.5, 0.7, 1, 1.5, 2, 3, 4].filter((v) => v >= x0 * 0.999 && v <= x1 * 1.001);
  const picture = plot(width, height, x, y, { xTicks: marksX, yTicks: ticks(y0, y1, 6), xLabel, yLabel, xText: xText || number });
  for (const at of marks) picture.append(shape("path", { class: "mark", d: `M${x(at)},${y.range[0]}V${y.range[1]}` }));
  series.forEach((one, k) => {
    const tint = SERIES[k % SERIES.length], known = one.points.filter((p) => p[1] !== null);
    if (one.level !== undefined && one.level !== null) {
      picture.append(shape("path", { d: `M${x.range[0]},${y(one.level)}H${x.range[1]}`, stroke: tint, "stroke-dasharray": "2 4", fill: "none" }));
    }
    picture.append(shape("path", { d: path(known.map((p) => [x(p[0]), y(p[1])])), fill: "none", stroke: tint, "stroke-width": 2 }));
    for (const p of known) {
      picture.append(shape("circle", { cx: x(p[0]), cy: y(p[1]), r: 3, fill: tint }, shape("title", {}, `${one.name ? `${one.name}: ` : ""}${number(p[0])}, ${number(p[1])}`)));
    }
  });
  return picture;
}

function legend(names) {
  return element("div", { class: "legend" }, ...names.map((name, k) =>
    element("span", { class: "one" }, element("i", { style: { background: SERIES[k % SERIES.length] } }), name)));
}

function resolutionSearch() {
  if (!data.partition) return null;
  // Modules of older versions hold z alone.
  const { search, search_z: z, least_z: least, resolution } = data.partition;
  const isExcess = search.length > 0, found = isExcess ? search : z;
  if (!found || found.length < 2) return null;
  const told = !isExcess ? "" : z.some((point) => point[1] >= least)
    ? "of those that have four fifths of the best, the nearest to 1."
    : `as hidden edges speak for none (z below ${least}): 1, or 0.1 where the graph falls apart by itself.`;
  const about = "How well modules found at each resolution explain edges that the search did not see " +
    `(${isExcess ? "their excess over what strengths explain" : "z"}, higher is better). Taken is ${number(resolution)}` +
    (told ? `, ${told}` : ".");
  return chart("Choice of the resolution", about, "", lines([{ points: found }],
    { xLabel: "resolution", yLabel: isExcess ? "held-out excess" : "held-out z", logarithmic: true, marks: [resolution] }));
}

function resolutionProfile() {
  if (!data.profile || data.profile.rows.length < 2) return null;
  const { rows, plateaus } = data.profile;
  const told = plateaus.slice(0, 2).map((p) => `${p[2]} modules from ${number(p[0])} to ${number(p[1])} (agreement ${number(p[3])})`);
  const marks = data.partition ? [data.partition.resolution].filter((r) => r >= rows[0][0] && r <= rows[rows.length - 1][0]) : [];
  const options = { xLabel: "resolution", logarithmic: true, marks };
  return chart("Resolution profile", told.length ? `Longest ranges without change: ${told.join("; ")}.` : "No range of resolutions without change.", "",
    lines([{ name: "modules", points: rows.map((r) => [r[0], r[1]]) }], { ...options, yLabel: "modules", whole: true }),
    lines([{ name: "agreement", points: rows.map((r) => [r[0], r[3]]) }, { name: "quality", points: rows.map((r) => [r[0], r[2]]) }], { ...options, yLabel: "agreement between runs, quality" }),
    legend(["agreement", "quality"]));
}

function ablationCurves() {
  if (!data.curves.length) return null;
  const needed = data.curves.map((one) => `${one.name}: ${whole(one.n_edges)} of ${whole(one.of)}`);
  const shown = data.curves.slice(0, SERIES.length);
  return chart("Edges that the model needs", `What the model still does with only the strongest edges of a pair (dotted: with all). Needed: ${needed.join("; ")}.`, "",
    lines(shown.map((one) => ({ name: one.name, points: one.points, level: one.intact })),
      { xLabel: "edges kept", yLabel: "measure", logarithmic: "with zero", xText: (v) => (v < 1e4 ? whole(v) : power(v, 1)) }),
    legend(shown.map((one) => one.name)));
}

function drawCharts(state, on) {
  const some = [heatMaps(state), modulesByLayer(state, on), distributions(state), resolutionSearch(), resolutionProfile(), ablationCurves()];
  $("charts").replaceChildren(...some.filter(Boolean));
}
