// The graph: layers as columns, features as nodes, on a 2D canvas.
//
// A 2D canvas, and not WebGL, because it is what is fast without a graphics card: the table in
// benchmarks/README.md compares both. While the camera moves, only as many of the strongest edges are
// drawn as can be within a frame; the others follow when it rests.

const LEVELS = 8; // of width and opacity
// Without a graphics card lines of at most a pixel are drawn five times faster than wider ones, best
// many in a path, wider ones one by one. Where there are many lines, width would not be seen anyway.
const THIN_FROM = 6000;
const CHUNK = 50;
const FRAME = 35; // milliseconds for edges while something moves
const MARGIN = { top: 44, bottom: 18, left: 62, right: 62 };

/** Heights of the nodes in their columns, from 0 to 1, and the distance between neighbours. */
const nodeY = unpacked(data.nodes.height);
const spacing = unpacked(data.nodes.step);

class GraphView {
  constructor(box, state, on) {
    this.box = box;
    this.state = state;
    this.on = on;
    this.base = element("canvas");
    this.over = element("canvas", { "aria-hidden": "true" });
    box.prepend(this.base, this.over);
    // Drawn by the processor everywhere: no readback, no dependence on a driver.
    this.paint = this.base.getContext("2d", { willReadFrequently: true });
    this.mark = this.over.getContext("2d", { willReadFrequently: true });
    this.camera = { zoom: 1, x: 0.5, y: 0.5 };
    this.chosen = [];
    this.speed = 0.004; // milliseconds an edge, measured as we go
    this.frames = [];
    this.resting = null;
    this.listen();
    new ResizeObserver(() => this.resize()).observe(box);
    this.resize();
  }

  // --- what is shown ---

  /** Chooses the edges; to be called when strength, number, ranking or modules change. */
  choose() {
    const { modules: only, ranking } = this.state;
    const view = views[this.state.strength]();
    let ordered = view.orders[ranking];
    if (only.size) {
      ordered = ordered.filter((e) => {
        const m = moduleOf[edgeSource[e]];
        return only.has(m) && (m === moduleOf[edgeTarget[e]] || only.has(moduleOf[edgeTarget[e]]));
      });
    }
    this.available = ordered.length;
    this.chosen = ordered.slice(0, Math.min(this.state.count, ordered.length));
    this.move();
  }

  /** Edges by width and colour: each group is drawn in one style. */
  groups(edges) {
    if (!edges.length) return [];
    const view = views[this.state.strength](), groups = new Map();
    const bySign = this.state.colour === "sign" && view.signed;
    const scale = this.state.ranking === "pair" ? (e) => view.largest[pairOf[e]] : () => view.most;
    for (const e of edges) {
      const share = Math.sqrt(view.size[e] / (scale(e) || 1));
      const level = Math.min(LEVELS - 1, Math.floor(share * LEVELS));
      const a = moduleOf[edgeSource[e]], inside = a >= 0 && a === moduleOf[edgeTarget[e]];
      const tint = bySign ? (view.weight[e] < 0 ? 2 : 1) : inside ? 3 + a : 0;
      // Edges between modules lie under those inside them, weak ones under strong ones.
      const key = (tint === 0 ? 0 : 1) * 1e7 + level * 1e6 + tint;
      if (!groups.has(key)) groups.set(key, { level, tint, edges: [] });
      groups.get(key).edges.push(e);
    }
    return [...groups].sort((a, b) => a[0] - b[0]).map(([, group]) => group);
  }

  // --- geometry ---

  resize() {
    const { clientWidth: width, clientHeight: height } = this.box;
    if (!width || !height) return;
    this.ratio = Math.min(window.devicePixelRatio || 1, 2);
    Object.assign(this, { width, height });
    MARGIN.right = this.roomForLabels();
    for (const canvas of [this.base, this.over]) {
      canvas.width = Math.round(width * this.ratio);
      canvas.height = Math.round(height * this.ratio);
    }
    this.draw();
  }

  /** Beside the last column, where its labels can be read at once. */
  roomForLabels() {
    const l = data.layers.length - 1;
    if (l < 0 || spacing[l] * (this.height - MARGIN.top - MARGIN.bottom) < 11.5) return 62;
    this.paint.font = "11px system-ui, sans-serif";
    let widest = 0;
    for (let node = firstOf[l]; node < nodeCount; node++) {
      widest = Math.max(widest, this.paint.measureText(short(brief(node), 40)).width);
    }
    return clamp(widest + 24, 62, Math.min(200, this.width / 4));
  }

  /** Columns spread less than rows: zooming in keeps neighbouring layers in sight. */
  get spread() {
    return this.camera.zoom ** 0.4;
  }

  screenX(l) {
    const n = data.layers.length, x = n > 1 ? l / (n - 1) : 0.5;
    const inner = this.width - MARGIN.left - MARGIN.right;
    return MARGIN.left + inner * ((x - this.camera.x) * this.spread + 0.5);
  }

  screenY(y) {
    const inner = this.height - MARGIN.top - MARGIN.bottom;
    return MARGIN.top + inner * ((y - this.camera.y) * this.camera.zoom + 0.5);
  }

  zoomBy(factor, px = this.width / 2, py = this.height / 2) {
    const { camera } = this, before = { zoom: camera.zoom, spread: this.spread };
    camera.zoom = clamp(camera.zoom * factor, 1, 400);
    const u = (px - MARGIN.left) / (this.width - MARGIN.left - MARGIN.right) - 0.5;
    const v = (py - MARGIN.top) / (this.height - MARGIN.top - MARGIN.bottom) - 0.5;
    camera.x += u / before.spread - u / this.spread;
    camera.y += v / before.zoom - v / camera.zoom;
    this.keepInside();
    this.move();
  }

  panBy(dx, dy) {
    this.camera.x -= dx / (this.width - MARGIN.left - MARGIN.right) / this.spread;
    this.camera.y -= dy / (this.height - MARGIN.top - MARGIN.bottom) / this.camera.zoom;
    this.keepInside();
    this.move();
  }

  keepInside() {
    const { camera } = this, half = [0.5 / this.spread, 0.5 / camera.zoom];
    camera.x = clamp(camera.x, Math.min(half[0], 0.5), Math.max(1 - half[0], 0.5));
    camera.y = clamp(camera.y, Math.min(half[1], 0.5), Math.max(1 - half[1], 0.5));
  }

  fit() {
    this.camera = { zoom: 1, x: 0.5, y: 0.5 };
    this.draw();
  }

  /** Moves so that a node can be seen. */
  reveal(node) {
    const y = this.screenY(nodeY[node]), x = this.screenX(layerOf[node]);
    const seen = y > MARGIN.top && y < this.height - MARGIN.bottom && x > 0 && x < this.width;
    if (!seen) {
      this.camera.y = nodeY[node];
      this.camera.x = data.layers.length > 1 ? layerOf[node] / (data.layers.length - 1) : 0.5;
      this.keepInside();
    }
    this.draw();
  }

  nodeAt(px, py) {
    let best = -1, nearest = 12;
    data.layers.forEach((layer, l) => {
      if (Math.abs(this.screenX(l) - px) > 16) return;
      for (let node = firstOf[l]; node < firstOf[l] + layer.n; node++) {
        const away = Math.abs(this.screenY(nodeY[node]) - py);
        if (away < nearest && this.isShown(node)) [best, nearest] = [node, away];
      }
    });
    return best;
  }

  isShown(node) {
    const only = this.state.modules;
    return !only.size || only.has(moduleOf[node]);
  }

  // --- drawing ---

  /** While something moves: what fits into a frame now, everything when it rests. */
  move() {
    clearTimeout(this.resting);
    const most = Math.max(400, Math.floor(FRAME / this.speed));
    if (this.chosen.length > most) this.resting = setTimeout(() => this.draw(), 140);
    this.draw(most);
  }

  draw(most = Infinity) {
    this.most = most;
    if (this.asked) return;
    this.asked = requestAnimationFrame(() => {
      this.asked = null;
      if (!this.width) return;
      this.drawEdges(this.most);
      this.drawOver();
    });
  }

  drawEdges(most) {
    const { paint, ratio } = this, began = performance.now();
    paint.setTransform(ratio, 0, 0, ratio, 0, 0);
    paint.clearRect(0, 0, this.width, this.height);
    const edges = this.chosen.length > most ? this.chosen.slice(0, most) : this.chosen;
    const xs = data.layers.map((_, l) => this.screenX(l));
    const faint = clamp((2500 / Math.max(edges.length, 1)) ** 0.4, 0.3, 1);
    const tints = [colour("edge"), colour("positive"), colour("negative"), ...colours];
    const thin = edges.length > THIN_FROM;
    paint.lineCap = "butt";
    let drawn = 0;
    for (const { level, tint, edges: group } of this.groups(edges)) {
      const q = (level + 0.5) / LEVELS;
      paint.strokeStyle = tints[tint];
      paint.globalAlpha = clamp((tint === 0 ? 0.1 + 0.5 * q : 0.16 + 0.8 * q) * faint, 0.03, 1);
      paint.lineWidth = thin ? Math.min(0.5 + 0.5 * q, 1 / ratio) : 0.5 + 1.9 * q * q;
      const chunk = paint.lineWidth * ratio <= 1 ? CHUNK : 1;
      let waiting = 0;
      paint.beginPath();
      for (const e of group) {
        const s = edgeSource[e], t = edgeTarget[e];
        const x0 = xs[layerOf[s]], x1 = xs[layerOf[t]];
        const y0 = this.screenY(nodeY[s]), y1 = this.screenY(nodeY[t]);
        if ((y0 < 0 && y1 < 0) || (y0 > this.height && y1 > this.height)) continue;
        if (Math.max(x0, x1) < 0 || Math.min(x0, x1) > this.width) continue;
        this.line(paint, x0, y0, x1, y1);
        drawn++;
        if (++waiting === chunk) {
          paint.stroke();
          paint.beginPath();
          waiting = 0;
        }
      }
      paint.stroke();
    }
    paint.globalAlpha = 1;
    this.drawNodes(xs);
    paint.getImageData(0, 0, 1, 1); // waits until it is drawn, so that the time is its time
    const took = performance.now() - began;
    if (drawn > 300) this.speed = 0.7 * this.speed + 0.3 * (took / drawn);
    this.lastDrawn = { edges: drawn, milliseconds: took };
  }

  line(paint, x0, y0, x1, y1) {
    paint.moveTo(x0, y0);
    if (x0 === x1) paint.quadraticCurveTo(x0 + 60, (y0 + y1) / 2, x1, y1);
    else paint.lineTo(x1, y1);
  }

  nodeSize(node) {
    const view = data.strengths.length ? views[this.state.strength]() : null;
    const share = view && view.strongest ? Math.sqrt(view.total[node] / view.strongest) : 0.3;
    const room = spacing[layerOf[node]] * this.camera.zoom * (this.height - MARGIN.top - MARGIN.bottom);
    return { width: 5 + 15 * share, height: clamp(room * 0.78, 1.2, 5 + 9 * share) };
  }

  drawNodes(xs) {
    const { paint } = this;
    const inner = this.height - MARGIN.top - MARGIN.bottom;
    for (let l = 0; l < data.layers.length; l++) {
      const room = spacing[l] * this.camera.zoom * inner;
      const first = firstOf[l], last = first + data.layers[l].n;
      for (let k = first; k < last; k++) {
        const node = order[k], y = this.screenY(nodeY[node]);
        if (y < -10 || y > this.height + 10) continue;
        const { width, height } = this.nodeSize(node);
        paint.globalAlpha = this.isShown(node) ? 1 : 0.13;
        paint.fillStyle = colourOf(node);
        if (height < 3) paint.fillRect(xs[l] - width / 2, y - height / 2, width, height);
        else {
          paint.beginPath();
          paint.roundRect(xs[l] - width / 2, y - height / 2, width, height, height / 2);
          paint.fill();
        }
      }
      paint.globalAlpha = 1;
      if (room > 11.5) this.drawLabels(l, xs[l], first, last);
    }
  }

  drawLabels(l, x, first, last) {
    const { paint } = this, right = l === data.layers.length - 1;
    const gap = data.layers.length > 1 ? Math.abs(this.screenX(1) - this.screenX(0)) : this.width;
    const n = right ? MARGIN.right - 16 : Math.min(gap * 0.45, 220);
    paint.font = "11px system-ui, sans-serif";
    paint.textBaseline = "middle";
    paint.textAlign = "left";
    paint.lineWidth = 3;
    paint.lineJoin = "round";
    paint.strokeStyle = colour("card");
    paint.fillStyle = colour("ink");
    for (let k = first; k < last; k++) {
      const node = order[k], y = this.screenY(nodeY[node]);
      if (y < MARGIN.top - 6 || y > this.height || !this.isShown(node)) continue;
      const text = shortened(paint, brief(node), Math.max(n, 24));
      paint.strokeText(text, x + 13, y);
      paint.fillText(text, x + 13, y);
    }
  }

  /** Layer names, the chosen feature and the one under the pointer. */
  drawOver() {
    const { mark, ratio } = this;
    mark.setTransform(ratio, 0, 0, ratio, 0, 0);
    mark.clearRect(0, 0, this.width, this.height);
    const { node, hover } = this.state;
    this.base.classList.toggle("dim", node >= 0);
    if (node >= 0) this.drawFeature(node, true);
    if (hover >= 0 && hover !== node) this.drawFeature(hover, node < 0);
    this.drawHeads();
  }

  drawHeads() {
    const { mark } = this;
    mark.fillStyle = colour("card");
    mark.globalAlpha = 0.9;
    mark.fillRect(0, 0, this.width, MARGIN.top - 12);
    mark.globalAlpha = 1;
    mark.textBaseline = "alphabetic";
    const gap = this.width / Math.max(data.layers.length, 1) * this.spread;
    data.layers.forEach((layer, l) => {
      const x = this.screenX(l);
      if (x < -80 || x > this.width + 80) return;
      const edge = (n) => clamp(x, n + 4, this.width - n - 4);
      mark.textAlign = "center";
      mark.font = "600 12px system-ui, sans-serif";
      mark.fillStyle = colour("ink");
      const name = shortened(mark, layer.name, Math.max(gap - 10, 24));
      mark.fillText(name, edge(mark.measureText(name).width / 2), 17);
      mark.font = "11px system-ui, sans-serif";
      mark.fillStyle = colour("soft");
      if (gap > 40) mark.fillText(whole(layer.n), edge(12), 30);
    });
  }

  drawFeature(node, withEdges) {
    const { mark } = this, x = this.screenX(layerOf[node]), y = this.screenY(nodeY[node]);
    const named = [];
    if (withEdges && data.strengths.length) {
      const view = views[this.state.strength]();
      for (const way of ["in", "out"]) {
        for (const other of neighbours(view, node, way)) {
          const share = Math.abs(other.weight) / (neighbours(view, node, way)[0].weight || 1);
          mark.strokeStyle = other.weight < 0 ? colour("negative") : colour("accent");
          mark.globalAlpha = 0.35 + 0.6 * Math.abs(share);
          mark.lineWidth = 0.8 + 2.2 * Math.abs(share);
          mark.beginPath();
          this.line(mark, x, y, this.screenX(layerOf[other.node]), this.screenY(nodeY[other.node]));
          mark.stroke();
          named.push(other.node);
        }
      }
    }
    mark.globalAlpha = 1;
    for (const other of [...named, node]) {
      const { width, height } = this.nodeSize(other), own = other === node;
      const w = Math.max(width, 9), h = Math.max(height, own ? 8 : 5);
      mark.fillStyle = colourOf(other);
      mark.strokeStyle = colour(own ? "ink" : "card");
      mark.lineWidth = own ? 2 : 1;
      mark.beginPath();
      mark.roundRect(this.screenX(layerOf[other]) - w / 2, this.screenY(nodeY[other]) - h / 2, w, h, h / 2);
      mark.fill();
      mark.stroke();
    }
    if (withEdges) this.nameNodes([node, ...named], node);
  }

  /** Labels beside nodes, the chosen one first, none over another. */
  nameNodes(nodes, node) {
    const { mark } = this, taken = [];
    mark.textBaseline = "middle";
    mark.lineWidth = 4;
    mark.lineJoin = "round";
    for (const other of nodes) {
      const l = layerOf[other], y = this.screenY(nodeY[other]);
      if (y < MARGIN.top - 4 || y > this.height) continue;
      if (taken.some(([layer, at]) => layer === l && Math.abs(at - y) < 13)) continue;
      taken.push([l, y]);
      const left = l < layerOf[node] || (l === layerOf[node] && l === data.layers.length - 1);
      mark.font = `${other === node ? "600 12.5px" : "11px"} system-ui, sans-serif`;
      const text = shortened(mark, other === node ? briefLabel(other) : brief(other), 190);
      const size = mark.measureText(text).width, x = this.screenX(l);
      let at = left ? x - 15 - size : x + 15;
      at = clamp(at, 4, Math.max(this.width - size - 4, 4));
      mark.textAlign = "left";
      mark.strokeStyle = colour("card");
      mark.fillStyle = colour("ink");
      mark.strokeText(text, at, y);
      mark.fillText(text, at, y);
    }
  }

  // --- pointer ---

  listen() {
    const { box } = this, fingers = new Map();
    let moved = false, apart = 0;
    const place = (event) => {
      const { left, top } = box.getBoundingClientRect();
      return [event.clientX - left, event.clientY - top];
    };
    const distance = () => {
      const [a, b] = [...fingers.values()];
      return Math.hypot(a[0] - b[0], a[1] - b[1]);
    };
    box.addEventListener("pointerdown", (event) => {
      if (event.target.closest("button")) return;
      fingers.set(event.pointerId, place(event));
      moved = false;
      if (fingers.size === 2) apart = distance();
    });
    box.addEventListener("pointermove", (event) => {
      const now = place(event), before = fingers.get(event.pointerId);
      if (!before) return this.point(event.target.closest("button") ? -1 : this.nodeAt(...now), now);
      const [dx, dy] = [now[0] - before[0], now[1] - before[1]];
      if (!moved && Math.hypot(dx, dy) < 4) return;
      if (!moved) box.setPointerCapture(event.pointerId);
      moved = true;
      box.classList.add("moving");
      this.point(-1, now);
      fingers.set(event.pointerId, now);
      if (fingers.size === 1) return this.panBy(dx, dy);
      const next = distance();
      if (apart) this.zoomBy(next / apart, ...now);
      apart = next;
    });
    const up = (event) => {
      if (fingers.delete(event.pointerId) && !moved && event.type === "pointerup") {
        this.on.pick(this.nodeAt(...place(event)));
      }
      box.classList.remove("moving");
    };
    box.addEventListener("pointerup", up);
    box.addEventListener("pointercancel", up);
    box.addEventListener("pointerleave", () => this.point(-1, [0, 0]));
    box.addEventListener("dblclick", (event) => {
      if (!event.target.closest("button")) this.zoomBy(2, ...place(event));
    });
    box.addEventListener("wheel", (event) => {
      event.preventDefault();
      const unit = event.deltaMode === 1 ? 33 : 1;
      this.zoomBy(Math.exp(-clamp(event.deltaY * unit, -300, 300) * 0.0022), ...place(event));
    }, { passive: false });
  }

  point(node, at) {
    this.box.classList.toggle("over", node >= 0);
    if (node !== this.state.hover) {
      this.state.hover = node;
      requestAnimationFrame(() => this.drawOver());
    }
    this.on.hover(node, at);
  }
}

/** A text cut to a width of a canvas, with its two ends kept. */
function shortened(paint, text, width) {
  let shown = short(text, 60);
  if (paint.measureText(shown).width <= width) return shown;
  const letters = [...shown];
  let low = 0, high = letters.length;
  const cut = (n) => `${letters.slice(0, Math.floor(n / 2)).join("")}…${letters.slice(letters.length - Math.ceil(n / 2)).join("")}`;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (paint.measureText(cut(middle)).width <= width) low = middle;
    else high = middle - 1;
  }
  return cut(low);
}
