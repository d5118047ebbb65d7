// What the pages draw with: nodes, numbers, ticks, drawing again for another width. Becomes part of a page's own function.
const html = (name, attributes = {}, ...children) => {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
};
// The parser knows the name of SVG's namespace, so the page need not hold an address.
const probe = html("div");
probe.innerHTML = "<svg></svg>";
const svgNamespace = probe.firstChild.namespaceURI;
const svg = (name, attributes = {}, ...children) => {
  const node = document.createElementNS(svgNamespace, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
};
const colour = name => `var(--${name})`;

// ---- numbers
const plain = value => {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e6 || size < 1e-3)) return value.toExponential(2).replace("e+", "e");
  return String(Number(value.toPrecision(5)));
};
const short = value => {
  const size = Math.abs(value);
  if (size >= 1e9) return Number((value / 1e9).toPrecision(4)) + "B";
  if (size >= 1e6) return Number((value / 1e6).toPrecision(4)) + "M";
  if (size >= 1e4) return Number((value / 1e3).toPrecision(4)) + "k";
  if (size !== 0 && size < 1e-3) return Number(value.toPrecision(3)).toExponential().replace("e+", "e");
  return String(Number(value.toPrecision(6)));
};
const niceTicks = (low, high, most, whole) => {
  const raw = (high - low) / Math.max(1, most), power = 10 ** Math.floor(Math.log10(raw));
  const ticksBy = by => {
    const ticks = [];
    for (let k = Math.ceil(low / by - 1e-9); k * by <= high + by * 1e-9; ++k) ticks.push(k * by);
    return ticks;
  };
  const steps = [0.5, 1, 2, 5, 10].map(x => x * power), i = steps.findIndex(x => x >= raw * 0.999);
  if (whole) return ticksBy(Math.max(1, Math.round(steps[i])));
  const ticks = ticksBy(steps[i]);
  return ticks.length < 3 && i > 0 ? ticksBy(steps[i - 1]) : ticks;  // one tick says nothing of the scale
};
const logTicks = (low, high) => {
  const from = Math.floor(Math.log10(low)), to = Math.ceil(Math.log10(high)), every = Math.ceil((to - from) / 6);
  const factors = to - from > 3 ? [1] : to - from > 1 ? [1, 3] : [1, 2, 5];
  const ticks = [];
  for (let e = from; e <= to; e += every) for (const f of factors) ticks.push(f * 10 ** e);
  return ticks.filter(t => t >= low * 0.999 && t <= high * 1.001);
};

// ---- drawing
const redraws = [];
const redrawAll = () => redraws.forEach(f => f());
const startDrawing = () => {
  redrawAll();
  let width = innerWidth, pending = 0;
  addEventListener("resize", () => {
    if (innerWidth === width) return;  // a phone's address bar changes the height alone
    width = innerWidth;
    cancelAnimationFrame(pending);
    pending = requestAnimationFrame(redrawAll);
  });
  addEventListener("beforeprint", redrawAll);
};
