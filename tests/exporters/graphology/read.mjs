// Reads a GEXF file with graphology-gexf and prints its nodes and edges as JSON.
// Usage: node read.mjs FILE   (after `npm ci` here, or in the folder that GRAPHOLOGY_HOME names)
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const home = process.env.GRAPHOLOGY_HOME;
const require = createRequire(home ? `${home}/read.mjs` : import.meta.url);
const { DOMParser } = require("@xmldom/xmldom");
const Graph = require("graphology");
const gexf = require("graphology-gexf");

// The DOM forgives by default; a file that Gephi Lite opens in a browser must be well-formed.
const fail = (message) => {
  throw new Error(message);
};
const parser = new DOMParser({ errorHandler: { warning: fail, error: fail, fatalError: fail } });
const text = readFileSync(process.argv[2], "utf8");
const graph = gexf.parse(Graph, parser.parseFromString(text, "application/xml"));

const declared = (kind) =>
  [...text.matchAll(/<attributes class="(\w+)">([^]*?)<\/attributes>/g)]
    .filter((match) => match[1] === kind)
    .flatMap((match) => [...match[2].matchAll(/ title="(.*?)"/g)].map((title) => title[1]));

console.log(
  JSON.stringify({
    directed: graph.type === "directed",
    multi: graph.multi,
    meta: graph.getAttributes(),
    declared: { node: declared("node"), edge: declared("edge") },
    nodes: graph.mapNodes((id, attributes) => ({ id, attributes })),
    edges: graph.mapEdges((id, attributes, source, target) => ({ source, target, attributes })),
  }),
);
