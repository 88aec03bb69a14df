"use strict";
// A point cloud and its cameras on a canvas, drawn in software: a z-buffer of ints is fast enough for some ten
// thousand points, needs no graphics card, and looks the same everywhere.
gpa.cloud = (() => {
  const HOME = { yaw: 0.6, pitch: 0.34, zoom: 1, panX: 0, panY: 0 };

  // World coordinates become those of the first camera (x right, y down, z forward): every clip starts alike.
  const scene = (w2c, intrinsics, size, packed) => {
    const cameras = [];
    for (let at = 0; at + 12 <= w2c.length; at += 12) cameras.push(w2c.slice(at, at + 12));
    const first = cameras[0];
    const enter = (x, y, z) => [0, 4, 8].map((row) => first[row] * x + first[row + 1] * y + first[row + 2] * z + first[row + 3]);
    const count = packed ? packed.kept : 0;
    const points = new Float32Array(3 * count);
    if (packed) {
      const raw = new DataView(gpa.bytes(packed.points).buffer);
      const [low, high] = packed.bounds;
      for (let at = 0; at < count; at++) {
        const xyz = [0, 1, 2].map((axis) => low[axis] + ((high[axis] - low[axis]) * raw.getUint16(2 * (3 * at + axis), true)) / 65535);
        points.set(enter(...xyz), 3 * at);
      }
    }
    const frusta = cameras.map((one, number) => frustum(one, intrinsics.slice(9 * number, 9 * number + 9), size, enter));
    return { points, colors: packed ? gpa.bytes(packed.colors) : null, frusta, ...scaleOf(points, frusta) };
  };

  // Centre and the four directions through the corners of the picture.
  const frustum = (w2c, k, size, enter) => {
    const back = (x, y, z) => [0, 1, 2].map((axis) => w2c[axis] * (x - w2c[3]) + w2c[4 + axis] * (y - w2c[7]) + w2c[8 + axis] * (z - w2c[11]));
    const centre = enter(...back(0, 0, 0));
    const corner = (u, v) => enter(...back((u - k[2]) / k[0], (v - k[5]) / k[4], 1)).map((value, axis) => value - centre[axis]);
    const [wide, high] = [size[0] - 0.5, size[1] - 0.5];
    return { centre, corners: [corner(-0.5, -0.5), corner(wide, -0.5), corner(wide, high), corner(-0.5, high)] };
  };

  const scaleOf = (points, frusta) => {
    const depths = [];
    for (let at = 2; at < points.length; at += 3 * Math.max(1, Math.floor(points.length / 3000))) if (points[at] > 0) depths.push(points[at]);
    depths.sort((a, b) => a - b);
    if (depths.length) {
      const middle = depths[depths.length >> 1];
      return { target: [0, 0, 0.72 * middle], distance: 1.8 * middle, reach: 0.14 * middle };
    }
    // Without points the path of the cameras fills the picture.
    const centre = [0, 1, 2].map((axis) => frusta.reduce((sum, one) => sum + one.centre[axis], 0) / frusta.length);
    const span = Math.max(1e-6, ...frusta.map((one) => Math.hypot(...one.centre.map((value, axis) => value - centre[axis]))));
    return { target: centre, distance: 5 * span, reach: 0.9 * span };
  };

  class View {
    constructor(canvas, content, shared) {
      Object.assign(this, { canvas, content, shared, frame: 0, pointers: new Map() });
      this.context = canvas.getContext("2d");
      shared.views.push(this);
      this.listen();
      new ResizeObserver(() => this.draw()).observe(canvas);
    }

    listen() {
      const canvas = this.canvas, place = this.shared;
      canvas.addEventListener("pointerdown", (event) => {
        canvas.setPointerCapture(event.pointerId);
        this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
      });
      const release = (event) => this.pointers.delete(event.pointerId);
      canvas.addEventListener("pointerup", release);
      canvas.addEventListener("pointercancel", release);
      canvas.addEventListener("pointermove", (event) => this.drag(event));
      canvas.addEventListener("wheel", (event) => { event.preventDefault(); place.zoomBy(Math.exp(-event.deltaY * 0.0015)); }, { passive: false });
      canvas.addEventListener("dblclick", () => place.reset());
      canvas.addEventListener("keydown", (event) => {
        const turn = { ArrowLeft: [-0.12, 0], ArrowRight: [0.12, 0], ArrowUp: [0, 0.12], ArrowDown: [0, -0.12] }[event.key];
        const zoom = { "+": 1.15, "=": 1.15, "-": 1 / 1.15 }[event.key];
        if (!turn && !zoom) return;
        event.preventDefault();
        event.stopPropagation();
        if (turn) place.turnBy(...turn); else place.zoomBy(zoom);
      });
    }

    drag(event) {
      const was = this.pointers.get(event.pointerId);
      if (!was) return;
      const now = [event.clientX, event.clientY];
      if (this.pointers.size === 2) {
        const other = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
        const length = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]) || 1;
        this.shared.zoomBy(length(now) / length(was));
      } else if (event.shiftKey || event.buttons === 4) {
        this.shared.panBy((now[0] - was[0]) / this.canvas.clientWidth, (now[1] - was[1]) / this.canvas.clientWidth);
      } else {
        this.shared.turnBy((now[0] - was[0]) * 0.008, (now[1] - was[1]) * 0.008);
      }
      this.pointers.set(event.pointerId, now);
    }

    // Rotation about the target and a pinhole in front of it; returns x, y in pixels and the depth.
    lens(width, height) {
      const { yaw, pitch, zoom, panX, panY } = this.shared.at;
      const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
      const { target, distance } = this.content;
      const away = distance / zoom, focal = 1.05 * Math.min(width, height);
      return (x, y, z) => {
        const dx = x - target[0], dy = y - target[1], dz = z - target[2];
        const rx = cy * dx - sy * dz, rz = sy * dx + cy * dz;
        const ry = cp * dy + sp * rz, depth = cp * rz - sp * dy + away;
        return [width / 2 + panX * width + (focal * rx) / depth, height / 2 + panY * width + (focal * ry) / depth, depth];
      };
    }

    draw() {
      const canvas = this.canvas, ratio = Math.min(2, devicePixelRatio || 1);
      const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
      if (!width || !height) return;
      if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
      const lens = this.lens(width, height);
      this.context.clearRect(0, 0, width, height);
      if (this.content.colors) this.drawPoints(width, height, lens);
      this.drawCameras(lens, ratio);
    }

    drawPoints(width, height, lens) {
      const { points, colors, distance } = this.content;
      const image = this.context.createImageData(width, height);
      const pixels = new Uint32Array(image.data.buffer), depths = new Float32Array(width * height).fill(Infinity);
      const grain = Math.max(1, (Math.min(width, height) / 95) * distance);
      for (let at = 0; at < points.length; at += 3) {
        const [u, v, depth] = lens(points[at], points[at + 1], points[at + 2]);
        if (!(depth > 0.02 * distance)) continue;
        const size = Math.min(8, Math.max(1, Math.round(grain / depth)));
        const left = Math.round(u - size / 2), top = Math.round(v - size / 2);
        if (left < 0 || top < 0 || left + size > width || top + size > height) continue;
        const color = 0xff000000 | (colors[at + 2] << 16) | (colors[at + 1] << 8) | colors[at];
        for (let row = top * width; row < (top + size) * width; row += width)
          for (let spot = row + left; spot < row + left + size; spot++)
            if (depth < depths[spot]) { depths[spot] = depth; pixels[spot] = color; }
      }
      this.context.putImageData(image, 0, 0);
    }

    drawCameras(lens, ratio) {
      const { frusta, reach } = this.content, context = this.context;
      const style = getComputedStyle(this.canvas);
      const line = (spots, close) => {
        const seen = spots.map((spot) => lens(...spot));
        if (seen.some(([, , depth]) => depth <= 0)) return;
        context.beginPath();
        seen.forEach(([u, v], at) => (at ? context.lineTo(u, v) : context.moveTo(u, v)));
        if (close) context.closePath();
        context.stroke();
      };
      context.lineJoin = "round";
      context.strokeStyle = style.getPropertyValue("--camera").trim() || "#888";
      context.lineWidth = 1.5 * ratio;
      line(frusta.map((one) => one.centre));
      frusta.forEach((one, number) => {
        const now = number === this.frame;
        if (!now && number !== 0 && number !== frusta.length - 1 && this.content.colors) return;
        context.globalAlpha = now ? 1 : 0.35;
        context.lineWidth = (now ? 2 : 1) * ratio;
        const ends = one.corners.map((corner) => corner.map((value, axis) => one.centre[axis] + value * reach));
        line(ends, true);
        ends.forEach((end) => line([one.centre, end]));
      });
      context.globalAlpha = 1;
    }

    show(frame) { if (frame !== this.frame) { this.frame = frame; this.draw(); } }
  }

  // Where all views of a pair stand: turning one turns the other.
  const shared = () => {
    const place = { at: { ...HOME }, views: [], waiting: false };
    place.changed = () => {
      if (place.waiting) return;
      place.waiting = true;
      requestAnimationFrame(() => { place.waiting = false; place.views.forEach((view) => view.draw()); });
    };
    place.turnBy = (yaw, pitch) => { place.at.yaw += yaw; place.at.pitch = Math.min(1.5, Math.max(-1.5, place.at.pitch + pitch)); place.changed(); };
    place.zoomBy = (by) => { place.at.zoom = Math.min(12, Math.max(0.2, place.at.zoom * by)); place.changed(); };
    place.panBy = (x, y) => { place.at.panX += x; place.at.panY += y; place.changed(); };
    place.reset = () => { Object.assign(place.at, HOME); place.changed(); };
    return place;
  };

  return { scene, View, shared };
})();
