"use strict";
// Draws each plot once it can be seen, in the colours of the page, which change between light and dark.
const dark = matchMedia("(prefers-color-scheme: dark)");
const colours = () => {
  const of = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const axis = { color: of("--soft"), gridcolor: of("--line"), zerolinecolor: of("--line") };
  const hover = { bgcolor: of("--card"), bordercolor: of("--line"), font: { color: of("--text") }, align: "left" };
  return { axis, hover, text: of("--text") };
};
const draw = place => {
  const figure = JSON.parse(place.firstElementChild.textContent);
  const { axis, hover, text } = colours();
  for (const name of ["xaxis", "yaxis"]) Object.assign(figure.layout[name] ??= {}, axis);
  Object.assign(figure.layout, { hoverlabel: hover, font: { color: text } });
  const target = place.lastElementChild;
  Plotly.react(target, figure.data, figure.layout, { responsive: true, displaylogo: false, displayModeBar: false });
  place.dataset.drawn = "yes";
};
const drawn = () => [...document.querySelectorAll(".plot")];
const isOpen = place => !place.closest("details:not([open])");
drawn().filter(isOpen).forEach(draw);
dark.addEventListener("change", () => drawn().filter(place => place.dataset.drawn).forEach(draw));
for (const box of document.querySelectorAll("details"))
  box.addEventListener("toggle", () => drawn().filter(p => box.contains(p) && isOpen(p) && !p.dataset.drawn).forEach(draw));
