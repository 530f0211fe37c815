// The same layered graph for every way of drawing: 5 columns of 1,000 nodes, 50,000 edges.

export function randomGraph(edgeCount, layers = 5, size = 1000) {
  let state = 1;
  const random = () => (state = (state * 16807) % 2147483647) / 2147483647;
  const nodes = Array.from({ length: layers * size }, (_, i) => [Math.floor(i / size) / (layers - 1), (i % size) / size]);
  const edges = Array.from({ length: edgeCount }, () => {
    const layer = Math.floor(random() * (layers - 1));
    return [layer * size + Math.floor(random() * size), (layer + 1) * size + Math.floor(random() * size), random()];
  });
  return { nodes, edges: edges.sort((a, b) => a[2] - b[2]) };
}

/** Milliseconds of some frames, each read back so that it is really drawn. */
export function frames(draw) {
  const times = [];
  for (let i = 0; i < 5; i++) {
    const began = performance.now();
    draw(i);
    times.push(performance.now() - began);
  }
  return times.slice(1).sort((a, b) => a - b)[2];
}
