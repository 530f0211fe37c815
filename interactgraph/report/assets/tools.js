// Small helpers. Text of the data only ever becomes text: nothing here reads markup.

const $ = (id) => document.getElementById(id);

/** An element with attributes and children; strings become text nodes. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  return fill(made, attributes, children);
}

const SVG = "http://www.w3.org/2000/svg";

/** The same for a picture. */
function shape(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "style") for (const [name, v] of Object.entries(value)) made.style.setProperty(name, v);
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const whole = (n) => Math.round(n).toLocaleString("en").replace(/,/g, "\u2009");

/** Three significant digits, powers of ten where they are shorter. */
function number(x) {
  if (x === null || x === undefined || Number.isNaN(x)) return "–";
  if (!Number.isFinite(x)) return x > 0 ? "∞" : "−∞";
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size >= 1e5 || size < 1e-3) return power(x, 2);
  return String(Number(x.toPrecision(3))).replace("-", "−");
}

const RAISED = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

function raised(n) {
  return [...String(n)].map((c) => RAISED[c]).join("");
}

function power(x, digits) {
  const [mantissa, exponent] = x.toExponential(digits - 1).split("e");
  return `${mantissa.replace("-", "−")}\u2009×\u200910${raised(Number(exponent))}`;
}

function percent(x) {
  if (x === null || x === undefined || Number.isNaN(x)) return "–";
  if (!Number.isFinite(x)) return "∞";
  const p = 100 * x;
  return `${p >= 10 || p === 0 ? Math.round(p) : Number(p.toPrecision(2))}\u2009%`;
}

const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

/** The beginning of a text that a canvas or a list shows in one line. */
function short(text, n = 60) {
  const line = text.length > 4 * n ? text.slice(0, 4 * n) : text;
  const letters = [...line.replace(/\s+/g, " ")];
  return letters.length > n ? `${letters.slice(0, n - 1).join("")}…` : letters.join("");
}

/** The value of a colour of the style sheet. */
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function rgb(hex) {
  const n = parseInt(hex.slice(1), 16);
  return [n >> 16, (n >> 8) & 255, n & 255];
}
