"use strict";
(() => {
  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const sources = [...document.querySelectorAll("script[data-plot]")];

  // Figures name colours as style sheet variables, so one figure serves dark, light and print.
  const resolved = (value, style) => {
    if (typeof value === "string") {
      const match = /^var\((--[\w-]+)\)$/.exec(value);
      return match ? style.getPropertyValue(match[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((item) => resolved(item, style));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, resolved(item, style)]));
  };

  const draw = (source) => {
    const figure = resolved(JSON.parse(source.textContent), getComputedStyle(root));
    const config = { displaylogo: false, displayModeBar: false, responsive: true };
    return Plotly.react(source.dataset.plot, figure.data, figure.layout, config);
  };
  const redraw = () => sources.forEach(draw);

  root.classList.add("plots");
  // One figure a turn, so that the page answers while many are drawn.
  const next = (index) => {
    if (index === sources.length) return;
    draw(sources[index]);
    setTimeout(next, 0, index + 1);
  };
  next(0);

  dark.addEventListener("change", redraw);
  window.addEventListener("beforeprint", () => { root.classList.add("paper"); redraw(); });
  window.addEventListener("afterprint", () => { root.classList.remove("paper"); redraw(); });
})();
