// A waveform on which regions are marked with mouse or finger. The component's value is
// {peaks: [0..1, ...], duration: seconds, regions: [[start, stop], ...]}; `input` is triggered when a region changed.
const canvas = element.querySelector("canvas");
const MIN_PIXELS = 4; // a shorter drag is a click, which removes the region under it
let dragged = null;

function color(name, fallback) {
  return getComputedStyle(element).getPropertyValue(name).trim() || fallback;
}

function draw() {
  const music = props.value || {};
  const ratio = window.devicePixelRatio || 1;
  const width = (canvas.width = canvas.clientWidth * ratio);
  const height = (canvas.height = canvas.clientHeight * ratio);
  const context = canvas.getContext("2d");
  if (!music.duration || !width) return;
  const toPixels = (seconds) => (seconds / music.duration) * width;
  context.fillStyle = color("--color-accent", "#f60");
  context.globalAlpha = 0.35;
  for (const [start, stop] of dragged ? [...music.regions, dragged] : music.regions) {
    const low = Math.min(start, stop), high = Math.max(start, stop);
    context.fillRect(toPixels(low), 0, Math.max(toPixels(high) - toPixels(low), 1), height);
  }
  context.globalAlpha = 1;
  context.fillStyle = color("--body-text-color", "#888");
  const step = width / music.peaks.length;
  music.peaks.forEach((peak, number) => {
    const size = Math.max(peak * height * 0.92, ratio);
    const left = Math.floor(number * step), right = Math.floor((number + 1) * step); // whole pixels, or there are stripes
    context.fillRect(left, (height - size) / 2, Math.max(right - left, 1), size);
  });
}

function secondsAt(event) {
  const box = canvas.getBoundingClientRect();
  const part = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
  return part * props.value.duration;
}

function merge(regions) {
  const merged = [];
  for (const [start, stop] of regions.sort((a, b) => a[0] - b[0])) {
    const last = merged[merged.length - 1];
    if (last && start <= last[1]) last[1] = Math.max(last[1], stop);
    else merged.push([start, stop]);
  }
  return merged;
}

function change(regions) {
  props.value = { ...props.value, regions };
  trigger("input");
  draw();
}

canvas.addEventListener("pointerdown", (event) => {
  if (!(props.value || {}).duration) return;
  canvas.setPointerCapture(event.pointerId);
  dragged = [secondsAt(event), secondsAt(event)];
});
canvas.addEventListener("pointermove", (event) => {
  if (!dragged) return;
  dragged[1] = secondsAt(event);
  draw();
});
canvas.addEventListener("pointerup", () => {
  if (!dragged) return;
  const round = (seconds) => Math.round(seconds * 100) / 100;
  const [start, stop] = dragged.map(round).sort((a, b) => a - b);
  dragged = null;
  const pixels = ((stop - start) / props.value.duration) * canvas.clientWidth;
  const regions = props.value.regions;
  if (pixels < MIN_PIXELS) change(regions.filter(([low, high]) => start < low || start > high));
  else change(merge([...regions.map((region) => [...region]), [start, stop]]));
});
canvas.addEventListener("pointercancel", () => { dragged = null; draw(); });
new ResizeObserver(draw).observe(canvas);
watch("value", draw);
draw();
