// The data as typed arrays, and what follows from them.

const KINDS = { f4: Float32Array, u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i4: Int32Array };

/** A typed array from base64 of little-endian numbers. */
function unpacked(stored) {
  if (!stored) return null;
  const text = atob(stored.base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const Kind = KINDS[stored.kind];
  if (new Uint8Array(new Uint16Array([1]).buffer)[0] === 0 && Kind.BYTES_PER_ELEMENT > 1) {
    for (let i = 0; i < bytes.length; i += Kind.BYTES_PER_ELEMENT) {
      bytes.subarray(i, i + Kind.BYTES_PER_ELEMENT).reverse();
    }
  }
  return new Kind(bytes.buffer);
}

const data = JSON.parse($("data").textContent);
const nodeCount = data.labels.length;
const modules = data.partition ? data.partition.modules : [];
const moduleOf = unpacked(data.nodes.module);
const order = unpacked(data.nodes.order);
const confidence = unpacked(data.nodes.confidence);
/** The modules that a node belongs to most, largest share first: {module, share, low, high}. */
const affinity = data.nodes.affinity && {
  n: data.nodes.affinity.n,
  ...Object.fromEntries(["module", "share", "low", "high", "role"].map((name) => [name, unpacked(data.nodes.affinity[name])])),
};
const ROLES = ["", "a mixture of modules", "a hub, which is spread over all modules"];
const roleOf = (node) => (affinity ? ROLES[affinity.role[node]] : "");
function affinitiesOf(node) {
  if (!affinity) return [];
  return Array.from({ length: affinity.n }, (_, k) => node * affinity.n + k).filter((k) => affinity.module[k] >= 0)
    .map((k) => ({ module: affinity.module[k], share: affinity.share[k],
      low: affinity.low ? affinity.low[k] : NaN, high: affinity.high ? affinity.high[k] : NaN }));
}
const grey = data.partition ? data.partition.grey : "#999999";
const colours = modules.map((module) => module.colour);
const colourOf = (node) => colours[moduleOf[node]] || grey;

const layerOf = new Uint32Array(nodeCount);
const firstOf = []; // first node of each layer
{
  let node = 0;
  data.layers.forEach((layer, l) => {
    firstOf.push(node);
    layerOf.fill(l, node, node + layer.n);
    node += layer.n;
  });
}

const edgeSource = unpacked(data.edges.source);
const edgeTarget = unpacked(data.edges.target);
const edgeCount = edgeSource.length;
const pairOf = new Uint32Array(edgeCount);
{
  const known = new Map(data.pairs.map((pair, p) => [pair.source * data.layers.length + pair.target, p]));
  for (let e = 0; e < edgeCount; e++) {
    pairOf[e] = known.get(layerOf[edgeSource[e]] * data.layers.length + layerOf[edgeTarget[e]]);
  }
}

/** What is known in each strength: decoded when it is looked at. */
const views = data.strengths.map((name, s) => {
  let made = null;
  return () => (made ||= strengthView(name, s));
});

function strengthView(name, s) {
  const stored = data.edges.strengths[s], nodes = data.nodes.strengths[s];
  const weight = unpacked(stored.weight), listed = unpacked(stored.listed);
  const size = weight.map(Math.abs);
  const byWeight = [];
  for (let e = 0; e < edgeCount; e++) if (listed[e]) byWeight.push(e);
  byWeight.sort((a, b) => size[b] - size[a]);

  // Rank within its pair: the strongest of every pair, then the second of every pair, ...
  const seen = new Uint32Array(data.pairs.length), rank = new Uint32Array(edgeCount);
  const largest = new Float32Array(data.pairs.length), smallest = new Float32Array(data.pairs.length);
  for (const e of byWeight) {
    const p = pairOf[e];
    if (!seen[p]) largest[p] = size[e];
    smallest[p] = size[e];
    rank[e] = seen[p]++;
  }
  const byRank = byWeight.slice().sort((a, b) => rank[a] - rank[b] || pairOf[a] - pairOf[b]);

  // In the whole graph the order is complete down to the strongest edge that was left out.
  let bound = 0;
  data.pairs.forEach((pair, p) => {
    if (seen[p] < pair.edges[s]) bound = Math.max(bound, smallest[p]);
  });
  const complete = byWeight.filter((e) => size[e] >= bound);

  const side = (part) => ({
    node: unpacked(part.node), weight: unpacked(part.weight), error: unpacked(part.error),
  });
  const total = unpacked(nodes.total);
  return {
    name, weight, size, error: unpacked(stored.error), largest, total,
    orders: { pair: byRank, all: complete },
    edges: data.pairs.reduce((sum, pair) => sum + pair.edges[s], 0),
    signed: weight.some((w) => w < 0),
    most: largest.reduce((a, b) => Math.max(a, b), 0),
    strongest: total.reduce((a, b) => Math.max(a, b), 0),
    in: side(nodes.in), out: side(nodes.out),
  };
}

/** Strongest edges of a feature on one side, over the whole graph. */
function neighbours(view, node, way) {
  const k = data.nodes.neighbours, part = view[way], found = [];
  for (let i = node * k; i < (node + 1) * k; i++) {
    if (part.node[i] >= 0) found.push({ node: part.node[i], weight: part.weight[i], error: part.error[i] });
  }
  return found;
}

const layerName = (l) => data.layers[l].name;

/** Where all layers begin alike ("encoder.layer.0", ...), what remains of a name: "layer.0". */
const alike = (() => {
  const names = data.layers.map((layer) => layer.name);
  if (names.length < 2) return 0;
  let n = 0;
  while (n < names[0].length && names.every((name) => name[n] === names[0][n])) n++;
  const parts = names[0].slice(0, n).split(".");
  return parts.length > 2 ? parts.slice(0, -2).join(".").length + 1 : 0;
})();
const briefLayer = (l) => layerName(l).slice(alike);

/** The label of a node without the name of its layer, where it begins with that. */
const brief = (node) => withoutLayer(node, "");
const briefLabel = (node) => withoutLayer(node, `${briefLayer(layerOf[node])}:`);

function withoutLayer(node, instead) {
  const label = data.labels[node], name = layerName(layerOf[node]);
  return label.startsWith(`${name}:`) ? instead + label.slice(name.length + 1) : label;
}

const nodeName = (node) => `${layerName(layerOf[node])}/${node - firstOf[layerOf[node]]}`;
