// Reads GEXF with graphology-gexf, as Gephi Lite does, and .cyjs with cytoscape.js.
// Usage: node read.mjs   (after `npm ci` here, or in the folder that READERS_HOME names)
// For each line of its input, the path of a file, it prints nodes and edges as one line of JSON.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const home = process.env.READERS_HOME;
const require = createRequire(home ? `${home}/read.mjs` : import.meta.url);
const { DOMParser } = require("@xmldom/xmldom");
const cytoscape = require("cytoscape");
const Graph = require("graphology");
const gexf = require("graphology-gexf");

// The DOM forgives by default; a file that Gephi Lite opens in a browser must be well-formed.
const fail = (message) => {
  throw new Error(message);
};
const parser = new DOMParser({ errorHandler: { warning: fail, error: fail, fatalError: fail } });

const declared = (text, kind) =>
  [...text.matchAll(/<attributes class="(\w+)">([^]*?)<\/attributes>/g)]
    .filter((match) => match[1] === kind)
    .flatMap((match) => [...match[2].matchAll(/ title="(.*?)"/g)].map((title) => title[1]));

const readGexf = (text) => {
  const graph = gexf.parse(Graph, parser.parseFromString(text, "application/xml"));
  return {
    directed: graph.type === "directed",
    multi: graph.multi,
    meta: graph.getAttributes(),
    declared: { node: declared(text, "node"), edge: declared(text, "edge") },
    nodes: graph.mapNodes((id, attributes) => ({ id, attributes })),
    edges: graph.mapEdges((id, attributes, source, target) => ({ source, target, attributes })),
  };
};

const readCytoscape = (text) => {
  const { elements, data } = JSON.parse(text);
  const graph = cytoscape({ headless: true, elements, data, layout: { name: "preset" } });
  return {
    meta: graph.data(),
    nodes: graph.nodes().map((node) => ({ data: node.data(), position: node.position() })),
    edges: graph.edges().map((edge) => edge.data()),
  };
};

for await (const path of createInterface({ input: process.stdin })) {
  const text = readFileSync(path, "utf8");
  let found;
  try {
    found = path.endsWith(".cyjs") ? readCytoscape(text) : readGexf(text);
  } catch (error) {
    found = { error: `${error}` };
  }
  console.log(JSON.stringify(found));
}
