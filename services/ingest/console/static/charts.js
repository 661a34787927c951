// The overview's charts: drawn by uPlot from the numbers that stand in the page, in the colours of console.css.
(() => {
  "use strict";
  const data = () => document.getElementById("chart-data");
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const height = 220;
  let plots = [], drawn = "";

  const ms = (value) => value == null ? "–" : value < 1000 ? `${Math.round(value)} ms`
    : value < 60000 ? `${(value / 1000).toFixed(1)} s` : `${(value / 60000).toFixed(1)} min`;
  // Hours of the viewer's own, in the viewer's way; days where a chart is long.
  const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
  const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });
  const moment = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });
  const axes = (format) => {
    const grid = { stroke: color("--pico-muted-border-color"), width: 1 };
    const stroke = color("--pico-muted-color");
    const isLong = data().dataset.span === "7d";
    const times = (_plot, values) => values.map((at) => (isLong ? day : clock).format(at * 1000));
    const numbers = (_plot, values) => values.map(format);
    return [
      { stroke, grid, space: 70, values: times, ...(isLong ? { incrs: [1, 2, 3, 7].map((days) => days * 86400) } : {}) },
      { stroke, grid, size: 70, values: numbers },
    ];
  };

  const moments = { label: "From", value: (_plot, at) => at == null ? "–" : moment.format(at * 1000) };

  // To the end of the last step, which has just begun.
  const steps = ({ at }) => ({ range: () => [at[0], 2 * at[at.length - 1] - at[at.length - 2]] });

  // Bars on top of one another: each series is drawn from zero up to its sum with those below, the highest first.
  const outcomes = (series) => {
    const parts = [["failed", "--bad"], ["retried", "--waits"], ["succeeded", "--good"]];
    const sums = parts.map((_part, index) => series.at.map((_at, step) =>
      parts.slice(index).reduce((sum, [name]) => sum + series[name][step], 0)));
    const bars = uPlot.paths.bars({ size: [0.9, 40], align: 1 });
    return {
      data: [series.at, ...sums],
      axes: axes((value) => value == null ? "" : value.toLocaleString()),
      scales: { x: steps(series), y: { range: (_plot, _least, most) => [0, Math.max(most * 1.05, 4)] } },
      series: [moments, ...parts.map(([name, hue]) => ({
        label: name, paths: bars, points: { show: false }, fill: color(hue), width: 0,
        value: (_plot, _sum, _series, step) => step == null ? "–" : series[name][step].toLocaleString(),
      }))],
    };
  };

  const lateness = (series) => ({
    data: [series.at, series.p99, series.p50],
    axes: axes(ms),
    scales: { x: steps(series), y: { range: (_plot, _least, most) => [0, Math.max((most || 0) * 1.05, 10)] } },
    series: [moments, ...[["p99", "--waits"], ["p50", "--good"]].map(([label, hue]) => ({
      label, stroke: color(hue), width: 2, spanGaps: false, points: { show: true, size: 4, fill: color(hue) },
      value: (_plot, value) => ms(value),
    }))],
  });

  const kinds = { outcomes, lateness };
  const draw = () => {
    const source = data();
    if (!source) return;
    drawn = source.dataset.series;
    const series = JSON.parse(drawn);
    plots.forEach((plot) => plot.destroy());
    plots = [...document.querySelectorAll("[data-chart]")].map((element) => {
      const { data: numbers, ...options } = kinds[element.dataset.chart](series);
      const width = Math.max(element.clientWidth, 200);
      return new uPlot({ width, height, cursor: { drag: { x: false, y: false } }, ...options }, numbers, element);
    });
  };

  draw();
  document.addEventListener("htmx:after:swap", () => { if (data()?.dataset.series !== drawn) draw(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  const watched = new ResizeObserver(() => plots.forEach((plot) => {
    const width = Math.max(plot.root.parentElement.clientWidth, 200);
    if (width !== plot.width) plot.setSize({ width, height });
  }));
  document.querySelectorAll("[data-chart]").forEach((element) => watched.observe(element));
})();
