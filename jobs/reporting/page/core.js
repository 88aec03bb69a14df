"use strict";
// The one name of this page: data handed over by the scripts under data/, and what all parts share.
const gpa = { data: {}, waiting: {} };

gpa.put = (name, value) => {
  gpa.data[name] = value;
  if (gpa.waiting[name]) gpa.waiting[name].resolve(value);
};

// A page opened as a file may not fetch, but it may add a script.
gpa.load = (name) => {
  if (name in gpa.data) return Promise.resolve(gpa.data[name]);
  if (gpa.waiting[name]) return gpa.waiting[name].promise;
  const one = {};
  one.promise = new Promise((resolve, reject) => Object.assign(one, { resolve, reject }));
  gpa.waiting[name] = one;
  const script = document.createElement("script");
  script.src = `data/${encodeURIComponent(name)}.js`;
  script.onerror = () => {
    delete gpa.waiting[name];
    one.reject(new Error(`data/${name}.js is missing`));
  };
  script.onload = () => script.remove();
  document.head.append(script);
  return one.promise;
};

// Elements. Text only ever becomes text: no string of a run is read as HTML.
const build = (node, props, children) => {
  for (const [key, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "on") for (const [type, handler] of Object.entries(value)) node.addEventListener(type, handler);
    else if (key === "vars") for (const [name, one] of Object.entries(value)) node.style.setProperty(name, one);
    else if (key === "data") Object.assign(node.dataset, value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
};
gpa.h = (tag, props, ...children) => build(document.createElement(tag), props, children);
gpa.s = (tag, props, ...children) => build(document.createElementNS("http://www.w3.org/2000/svg", tag), props, children);
gpa.$ = (id) => document.getElementById(id);

const known = (value) => typeof value === "number" && Number.isFinite(value);
gpa.known = known;
gpa.count = (value) => (known(value) ? value.toLocaleString("en") : "–");

// Three to four significant digits, aligned enough to compare: 0.0123, 12.3, 1.2e-7.
gpa.num = (value, digits = 3) => {
  if (!known(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-4) return value.toExponential(Math.max(0, digits - 1)).replace("e+", "e").replaceAll("-", "−");
  const decimals = Math.max(0, digits - 1 - Math.floor(Math.log10(size)));
  return value.toFixed(Math.min(decimals, 6)).replace("-", "−");
};
gpa.signed = (value, digits = 3) => (known(value) && value > 0 ? "+" : "") + gpa.num(value, digits);
gpa.percent = (value) => (known(value) ? `${Math.round(100 * value)}%` : "–");
gpa.short = (id) => (id && id.length > 14 ? id.slice(0, 10) + "…" : id || "–");
gpa.plural = (n, one, many) => `${gpa.count(n)} ${n === 1 ? one : many || one + "s"}`;

gpa.calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

let toastTimer = 0;
gpa.toast = (text) => {
  const node = gpa.$("toast");
  node.textContent = text;
  node.classList.add("shown");
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => node.classList.remove("shown"), 2600);
};

gpa.title = (text, ...more) => gpa.h("div", { class: "title" }, gpa.h("h2", {}, text), ...more);

// Redraws when the width of a node changes; charts are drawn for their pixels.
gpa.fit = (node, draw) => {
  let width = 0;
  new ResizeObserver(([entry]) => {
    const now = Math.floor(entry.contentRect.width);
    if (now && now !== width) draw((width = now));
  }).observe(node);
  return node;
};

// A table that may be wider than the page: it scrolls by itself, an edge shows where there is more, and whoever
// does not see it is told.
gpa.scroll = (table, label) => {
  const node = gpa.h("div", { class: "scroll" }, table);
  const edges = () => {
    const left = node.scrollLeft > 1, right = node.scrollLeft + node.clientWidth < node.scrollWidth - 1;
    node.dataset.more = [left && "left", right && "right"].filter(Boolean).join(" ");
    const told = left || right ? { role: "region", tabindex: 0, "aria-label": `${label}; scrolls sideways` } : {};
    for (const name of ["role", "tabindex", "aria-label"]) if (name in told) node.setAttribute(name, told[name]); else node.removeAttribute(name);
  };
  node.addEventListener("scroll", edges, { passive: true });
  const watch = new ResizeObserver(edges);
  watch.observe(node);
  watch.observe(table);
  return node;
};

// Little-endian numbers from base64, as the reconstructions pack them.
gpa.bytes = (text) => Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
