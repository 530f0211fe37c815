// A 2D canvas, as the page draws: thin lines many in a path, wide ones one by one.

import { frames, randomGraph } from "./random.js";

function measure(edgeCount, thin) {
  const { nodes, edges } = randomGraph(edgeCount), canvas = document.createElement("canvas");
  Object.assign(canvas, { width: 1000, height: 800 });
  document.body.append(canvas);
  const paint = canvas.getContext("2d", { willReadFrequently: true });
  const x = (node) => 40 + nodes[node][0] * 920, y = (node) => 20 + nodes[node][1] * 760;
  const time = frames((shift) => {
    paint.setTransform(1, 0, 0, 1, 0, 0);
    paint.clearRect(0, 0, 1000, 800);
    paint.setTransform(1, 0, 0, 1, 5 * shift, 0);
    for (let level = 0; level < 8; level++) {
      paint.strokeStyle = `rgba(0, 100, 180, ${0.1 + 0.08 * level})`;
      paint.lineWidth = thin ? 0.5 + 0.07 * level : 0.5 + 0.27 * level;
      const chunk = paint.lineWidth <= 1 ? 50 : 1;
      const last = Math.floor(((level + 1) * edges.length) / 8);
      for (let k = Math.floor((level * edges.length) / 8); k < last; k += chunk) {
        paint.beginPath();
        for (const [source, target] of edges.slice(k, Math.min(k + chunk, last))) {
          paint.moveTo(x(source), y(source));
          paint.lineTo(x(target), y(target));
        }
        paint.stroke();
      }
    }
    paint.getImageData(0, 0, 1, 1);
  });
  canvas.remove();
  return time;
}

window.result = {};
for (const edges of [3000, 50000]) {
  window.result[`2D canvas, lines up to a pixel wide|${edges}`] = measure(edges, true);
  window.result[`2D canvas, lines up to 2.4 pixels wide|${edges}`] = measure(edges, false);
}
