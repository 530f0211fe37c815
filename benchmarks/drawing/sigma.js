// sigma.js (WebGL2), lines of one pixel and antialiased rectangles.

import Graph from "graphology";
import Sigma from "sigma";
import { EdgeLineProgram, EdgeRectangleProgram } from "sigma/rendering";
import { frames, randomGraph } from "./random.js";

function measure(edgeCount, program) {
  const { nodes, edges } = randomGraph(edgeCount), graph = new Graph({ multi: true });
  nodes.forEach(([x, y], i) => graph.addNode(i, { x: 1.5 * x, y, size: 2, color: "#0072b2" }));
  edges.forEach(([source, target]) => graph.addEdge(source, target, { size: 0.5, color: "#cccccc" }));
  const box = document.createElement("div");
  Object.assign(box.style, { width: "1000px", height: "800px" });
  document.body.append(box);
  const sigma = new Sigma(graph, box, { defaultEdgeType: "line", edgeProgramClasses: { line: program }, renderLabels: false });
  const pixel = new Uint8Array(4);
  const time = frames((shift) => {
    sigma.getCamera().setState({ x: 0.4 + 0.01 * shift });
    sigma.refresh({ skipIndexation: true, schedule: false });
    for (const context of Object.values(sigma.webGLContexts)) context.readPixels(0, 0, 1, 1, context.RGBA, context.UNSIGNED_BYTE, pixel);
  });
  sigma.kill();
  box.remove();
  return time;
}

window.result = {};
for (const edges of [3000, 50000]) {
  window.result[`sigma.js 3, lines|${edges}`] = measure(edges, EdgeLineProgram);
  window.result[`sigma.js 3, antialiased|${edges}`] = measure(edges, EdgeRectangleProgram);
}
