"use strict";
// A recorded pass, to step through. No library; nothing is fetched, and no text of the data is ever read as HTML.
(() => {
  const $ = (id) => document.getElementById(id);
  const header = JSON.parse($("header").textContent);
  const words = header.words;
  const MOST_UNITS = 256; // rows of the table of all numbers
  const TILE = 8192; // columns of one canvas
  const SVG = "http://www.w3.org/2000/svg";

  // ---------------------------------------------------------------------------------------------- numbers

  const blocks = new Map();

  function bytes(number) {
    const text = $(`block${number}`).textContent;
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
    const characters = atob(text);
    const array = new Uint8Array(characters.length);
    for (let place = 0; place < array.length; place++) array[place] = characters.charCodeAt(place);
    return array;
  }

  // The numbers of a block, decoded when first asked for. Files are little-endian, as all that run browsers are.
  function block(number) {
    let array = blocks.get(number);
    if (array) return array;
    const about = header.blocks[number];
    const { buffer } = bytes(number);
    if (about.dtype === "f8") array = new Float64Array(buffer);
    else if (about.dtype === "i2") array = new Int16Array(buffer);
    else array = new Float32Array(buffer);
    if (about.exponents !== undefined) {
      const scales = block(about.exponents);
      const width = about.shape[about.shape.length - 1];
      const scaled = new Float64Array(array.length);
      for (let place = 0; place < array.length; place++) {
        const exponent = scales[Math.floor(place / width)];
        const half = exponent >> 1; // 2 ** exponent may be no number where the product is one
        scaled[place] = array[place] * 2 ** half * 2 ** (exponent - half);
      }
      array = scaled;
    }
    blocks.set(number, array);
    return array;
  }

  // The numbers of an array: a block, or made of those of other arrays, by products and sums that give the same bits.
  function data(array) {
    if (array.block !== undefined) return block(array.block);
    if (array.values) return array.values;
    const across = header.sequences.length * array.width;
    const { count, reverse } = layer();
    const values = new (single ? Float32Array : Float64Array)((count + (array.state ? 1 : 0)) * across);
    if (array.state) values.set(block(array.initial), reverse ? count * across : 0);
    const make = compiled(array.made, across);
    const shift = array.state && !reverse ? across : 0;
    for (let place = 0; place < count * across; place++) values[place + shift] = make(place);
    array.values = values;
    return values;
  }

  function compiled(tree, across) {
    const [kind] = tree;
    if (kind === "number") return () => tree[1];
    if (kind === "name") {
      const reference = layer().references[tree[1]];
      const values = data(find(reference.array));
      const shift = Number(reference.row) * across;
      return (place) => values[place + shift];
    }
    const a = compiled(tree[1], across);
    if (kind === "negative") return (place) => -a(place);
    const b = compiled(tree[2], across);
    if (kind === "+") return (place) => round(a(place) + b(place));
    if (kind === "-") return (place) => round(a(place) - b(place));
    if (kind === "*") return (place) => round(a(place) * b(place));
    if (kind === "**") return (place) => round(a(place) * a(place));
    const compare = { ">": (x, y) => x > y, ">=": (x, y) => x >= y, "<": (x, y) => x < y, "<=": (x, y) => x <= y }[kind];
    return (place) => Number(compare(a(place), b(place)));
  }

  const single = header.dtype === "float32";
  const digits = header.precision === "compact" ? 8 : 0;

  // A number as Python writes it: the fewest digits that mean it, of float32 those that mean it among float32.
  function exact(value) {
    if (Number.isNaN(value)) return "nan";
    if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
    if (digits) return written(value.toExponential(digits - 1), true);
    if (single) {
      for (let count = 0; count < 9; count++) {
        const text = value.toExponential(count);
        if (Math.fround(Number(text)) === value) return written(evenly(text, value, count), true, value);
      }
    }
    return written(value.toExponential(), true, value);
  }

  // Halfway between two texts NumPy writes the even one, toExponential the larger one.
  function evenly(text, value, count) {
    const [figures, power] = value.toExponential(count + 20).split("e");
    const places = count + (value < 0 ? 1 : 0) + (count ? 2 : 1);
    const isHalf = /^\.?50*$/.test(figures.slice(places));
    return isHalf && Number(figures[places - 1]) % 2 === 0 ? `${figures.slice(0, places)}e${power}` : text;
  }

  // Python's forms of a text like 1.25e-7: 1.25e-07, 0.125, 1250.0.
  function written(text, plain, value) {
    const [mantissa, power] = text.split("e");
    const exponent = Number(power);
    const minus = mantissa.startsWith("-") || Object.is(value, -0) ? "-" : "";
    const unsigned = mantissa.replace("-", "");
    if (plain && (Number(unsigned) === 0 || (exponent >= -4 && exponent < 16))) {
      let figures = unsigned.replace(".", "").replace(/0+$/, "");
      if (figures === "") return `${minus}0.0`;
      if (exponent < 0) return `${minus}0.${"0".repeat(-exponent - 1)}${figures}`;
      figures = figures.padEnd(exponent + 1, "0");
      return `${minus}${figures.slice(0, exponent + 1)}.${figures.slice(exponent + 1) || "0"}`;
    }
    const size = String(Math.abs(exponent)).padStart(2, "0");
    const short = plain && unsigned.includes(".") ? unsigned.replace(/\.?0+$/, "") : unsigned;
    return `${minus}${short}e${exponent < 0 ? "-" : "+"}${size}`;
  }

  // Four digits: 3.102e-05, 0.7714.
  function short(value) {
    if (!Number.isFinite(value)) return exact(value);
    return written(value.toExponential(3), value === 0 || (Math.abs(value) >= 1e-3 && Math.abs(value) < 1e4), value);
  }

  const number = (value) => (state.digits ? exact(value) : short(value));

  // Floating-point numbers from one to the other.
  const bits = new BigInt64Array(1);
  const asDouble = new Float64Array(bits.buffer);
  const bits4 = new Int32Array(1);
  const asSingle = new Float32Array(bits4.buffer);

  function apart(a, b) {
    if (Object.is(a, b) || a === b) return 0;
    if (Number.isNaN(a) || Number.isNaN(b)) return Infinity;
    const place = (value) => {
      if (single) {
        asSingle[0] = value;
        return BigInt(bits4[0] < 0 ? -(bits4[0] & 0x7fffffff) : bits4[0]);
      }
      asDouble[0] = value;
      return bits[0] < 0n ? -(bits[0] & 0x7fffffffffffffffn) : bits[0];
    };
    const between = place(a) - place(b);
    return Number(between < 0n ? -between : between);
  }

  const round = single ? Math.fround : (value) => value;

  // ---------------------------------------------------------------------------------------------- what is shown

  const state = { layer: 0, sequence: 0, array: 0, unit: 0, time: 0, digits: false, table: false, colours: "auto", runs: "both", playing: false };
  const counts = { updates: 0, paints: 0, times: [] };
  window.rnn_numpy = { state, counts, header, exact, short, value: (name, t, n, u) => entry(find(name), t - layer().first, n, u) };

  const layer = () => header.layers[state.layer];
  const find = (name) => layer().arrays.find((array) => array.name === name);
  const chosen = () => layer().arrays[state.array];
  // The row of an array whose state after a step it is: of a reverse direction, the row before.
  const rowOf = (array, time) => time + (array.state && !layer().reverse ? 1 : 0);
  const offset = (array, time, sequence) => (rowOf(array, time) * header.sequences.length + sequence) * array.width;
  const entry = (array, time, sequence, unit) => data(array)[offset(array, time, sequence) + unit];
  const isReached = (time) => {
    const { reached, reverse, backward } = layer();
    return reached === null || (reverse === backward ? time <= reached : time >= reached);
  };

  function norm(values, start, width) {
    let sum = 0;
    for (let place = start; place < start + width; place++) sum += values[place] * values[place];
    if (sum > 1e-290 && sum < 1e300) return Math.sqrt(sum);
    let largest = 0;
    for (let place = start; place < start + width; place++) largest = Math.max(largest, Math.abs(values[place]));
    if (!(largest > 0) || !Number.isFinite(largest)) return largest;
    sum = 0;
    for (let place = start; place < start + width; place++) sum += (values[place] / largest) ** 2;
    return largest * Math.sqrt(sum);
  }

  function element(kind, text, attributes) {
    const made = document.createElement(kind);
    if (text !== undefined) made.textContent = text;
    for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
    return made;
  }

  function shape(kind, attributes) {
    const made = document.createElementNS(SVG, kind);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  }

  // Writes a text where it is another one.
  function write(node, text) {
    if (node.firstChild && node.firstChild.nodeType === 3) {
      if (node.firstChild.data !== text) node.firstChild.data = text;
    } else node.textContent = text;
  }

  // ---------------------------------------------------------------------------------------------- heatmaps

  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  const rgb = (r, g, b) => (255 << 24) | (b << 16) | (g << 8) | r; // in memory r, g, b, a
  const VIRIDIS = [[68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142], [31, 158, 137], [53, 183, 121], [110, 206, 88], [181, 222, 43], [253, 231, 37]];

  function ramp(stops) {
    const table = new Int32Array(256);
    for (let place = 0; place < 256; place++) {
      const at = (place / 255) * (stops.length - 1);
      const low = Math.min(Math.floor(at), stops.length - 2);
      table[place] = rgb(...[0, 1, 2].map((part) => Math.round(stops[low][part] + (at - low) * (stops[low + 1][part] - stops[low][part]))));
    }
    return table;
  }

  const sizes = ramp(VIRIDIS);
  let signs;
  let paper;
  function mixColours() {
    const middle = dark.matches ? [38, 38, 38] : [247, 247, 247];
    const ends = dark.matches ? [[120, 180, 255], [255, 130, 110]] : [[5, 48, 130], [140, 10, 30]];
    const between = dark.matches ? [[60, 110, 190], [190, 70, 55]] : [[90, 150, 205], [220, 110, 85]];
    signs = ramp([ends[0], between[0], middle, between[1], ends[1]]);
    paper = dark.matches ? rgb(31, 31, 31) : rgb(244, 244, 244);
  }
  mixColours();
  const HATCH = [rgb(255, 0, 200), rgb(0, 0, 0)];

  // What a map shows of an array: this run, the other one, or how far they are apart.
  function valuesOf(array, source) {
    if (source === "other") return block(array.other);
    if (source !== "difference") return data(array);
    if (!array.apart) {
      const [one, other] = [data(array), block(array.other)];
      array.apart = one.map((value, place) => (Object.is(value, other[place]) ? 0 : Math.abs(value - other[place])));
    }
    return array.apart;
  }

  const sourcesOf = (array) => (array.other === undefined ? [""] : { both: ["", "other"], this: [""], other: ["other"], difference: ["difference"] }[state.runs]);

  // What of an array its colours say: the way, the range, what is not finite, the extreme; of two maps of both runs.
  function range(array, source) {
    const found = sourcesOf(array).length > 1 ? ["", "other"].map((one) => rangeOf(array, one)) : [rangeOf(array, source)];
    const [one, other] = found;
    if (!other) return one;
    const at = one.largest >= other.largest ? one.at : other.at;
    return { way: one.way, smallest: Math.min(one.smallest, other.smallest), largest: Math.max(one.largest, other.largest), low: Math.min(one.low, other.low), high: Math.max(one.high, other.high), bad: one.bad + other.bad, at };
  }

  function rangeOf(array, source) {
    const values = valuesOf(array, source);
    const { length } = header.sequences[state.sequence];
    let way = source === "difference" ? "size" : state.colours;
    if (way === "auto") way = array.kind === "share" || array.kind === "part" ? "share" : array.kind === "gradient" ? "size" : "signed";
    let smallest = Infinity;
    let largest = 0;
    let low = Infinity;
    let high = -Infinity;
    let bad = 0;
    let at = [0, 0];
    for (let time = 0; time < layer().count; time++) {
      if (time + layer().first >= length && header.sequences[state.sequence].length) continue;
      const start = offset(array, time, state.sequence);
      for (let unit = 0; unit < array.width; unit++) {
        const value = values[start + unit];
        const size = Math.abs(value);
        if (!(size < Infinity)) bad++;
        else {
          if (size > largest) {
            largest = size;
            at = [time, unit];
          }
          if (size > 0 && size < smallest) smallest = size;
          if (value < low) low = value;
          if (value > high) high = value;
        }
      }
    }
    return { way, smallest, largest, low, high, bad, at };
  }

  function paint(map) {
    const { array, canvases, source } = map;
    const found = range(array, source);
    const values = valuesOf(array, source);
    const { width } = array;
    const { count } = layer();
    counts.paints++;
    const base = Math.log2(found.smallest);
    const span = Math.max(Math.log2(found.largest) - base, 1e-9);
    const most = array.kind === "part" && found.largest > 0 ? found.largest : 1;
    const scale = found.largest > 0 ? 127.5 / found.largest : 0;
    for (const [tile, canvas] of canvases.entries()) {
      const context = canvas.getContext("2d");
      const columns = canvas.width;
      const image = context.createImageData(columns, width);
      const pixels = new Int32Array(image.data.buffer);
      for (let column = 0; column < columns; column++) {
        const time = tile * TILE + column;
        const start = offset(array, time, state.sequence);
        let own = scale;
        if (found.way === "own") {
          let top = 0;
          for (let unit = 0; unit < width; unit++) {
            const size = Math.abs(values[start + unit]);
            if (size > top && size < Infinity) top = size;
          }
          own = top > 0 ? 127.5 / top : 0;
        }
        for (let unit = 0; unit < width; unit++) {
          const value = values[start + unit];
          let colour;
          if (!(Math.abs(value) < Infinity)) colour = isReached(time) ? HATCH[(time + unit) & 1] : paper;
          else if (found.way === "share") colour = sizes[Math.max(0, Math.min(255, Math.round((value / most) * 255)))];
          else if (found.way === "size") colour = value === 0 ? paper : sizes[Math.max(0, Math.round(((Math.log2(Math.abs(value)) - base) / span) * 255))];
          else if (own > 1e300) colour = signs[value > 0 ? 255 : value < 0 ? 0 : 128];
          else colour = signs[Math.max(0, Math.min(255, Math.round(127.5 + value * own)))];
          pixels[(width - 1 - unit) * columns + column] = colour;
        }
      }
      context.putImageData(image, 0, 0);
    }
    const way = words[`colours ${found.way === "share" ? "auto" : found.way}`];
    let said = found.largest === 0 ? words.zero : found.way === "size" ? `|·| ${short(found.smallest)} … ${short(found.largest)}` : `${short(found.low)} … ${short(found.high)}`;
    write(map.range, said);
    write(map.bad, found.bad ? `${found.bad} ${words.bad}` : "");
    const [time, unit] = found.at;
    said += `, ${way}; ${words.largest} ${words.at} t = ${time + layer().first}, ${words.unit} ${unit}${found.bad ? `; ${found.bad} ${words.bad}` : ""}`;
    const of = source ? `, ${source === "other" ? words.other : words["runs difference"]}` : "";
    canvases[0].setAttribute("aria-label", `${array.name}${of}, ${array.width} × ${count}: ${said}`);
  }

  let maps = [];

  function layOut() {
    const place = $("heatmaps");
    place.textContent = "";
    maps = [];
    for (const [number, array] of layer().arrays.entries()) {
      const row = element("div", undefined, { class: "row" });
      const name = element("div", undefined, { class: "name" });
      const button = element("button", array.name, { type: "button" });
      button.addEventListener("click", () => change({ array: number }));
      const extent = element("span", "", { class: "note" });
      const bad = element("span", "", { class: "bad" });
      name.append(button, " ", extent, " ", bad);
      const fields = element("div");
      for (const source of sourcesOf(array)) {
        const field = element("div", undefined, { class: "map" });
        const [least, most] = array.kind === "part" ? [Math.min(120, 6 * array.width), 160] : [24, 64];
        field.style.height = `${array.width === 1 ? 12 : Math.max(least, Math.min(most, array.width))}px`;
        const canvases = [];
        for (let start = 0; start < layer().count; start += TILE) {
          const canvas = element("canvas", undefined, { role: start ? "presentation" : "img" });
          canvas.width = Math.min(TILE, layer().count - start);
          canvas.height = array.width;
          canvas.style.width = `${(canvas.width / layer().count) * 100}%`;
          field.append(canvas);
          canvases.push(canvas);
        }
        const outline = element("div", undefined, { class: "unit", "aria-hidden": "true" });
        field.append(outline);
        follow(field, (time, height) => change({ time, array: number, unit: Math.max(0, Math.min(array.width - 1, Math.floor((1 - height) * array.width))) }));
        fields.append(field);
        maps.push({ array, number, source, canvases, outline, button, range: extent, bad });
      }
      row.append(name, fields);
      place.append(row);
    }
    for (const map of maps) paint(map);
  }

  // A pointer pressed on a map goes to its place, and drags it along.
  function follow(field, go) {
    const seen = (event) => {
      const box = field.getBoundingClientRect();
      const across = (event.clientX - box.left) / box.width;
      go(Math.max(0, Math.min(layer().count - 1, Math.floor(across * layer().count))), Math.max(0, Math.min(0.999, (event.clientY - box.top) / box.height)));
    };
    field.addEventListener("pointerdown", (event) => {
      field.setPointerCapture(event.pointerId);
      seen(event);
    });
    field.addEventListener("pointermove", (event) => {
      if (field.hasPointerCapture(event.pointerId)) seen(event);
    });
  }

  // ---------------------------------------------------------------------------------------------- lines of norms

  let lines = [];

  function drawNorms() {
    const { states, backward, count } = layer();
    const wanted = states.map((name) => (backward ? `d${name}` : name));
    const place = $("norms");
    place.textContent = "";
    lines = [];
    for (const name of wanted) {
      const array = find(name);
      if (!array) continue;
      for (const [other, values] of [["", data(array)], ["other", array.other === undefined ? null : block(array.other)]]) {
        if (!values) continue;
        const norms = new Float64Array(count);
        for (let time = 0; time < count; time++) norms[time] = norm(values, offset(array, time, state.sequence), array.width);
        lines.push({ name, norms, other, look: lines.length && name !== wanted[0] ? "b" : "a" });
      }
    }
    let low = Infinity;
    let high = -Infinity;
    for (const { norms } of lines) {
      for (const value of norms) {
        if (value > 0 && value < Infinity) {
          low = Math.min(low, Math.log10(value));
          high = Math.max(high, Math.log10(value));
        }
      }
    }
    if (!(low < high)) [low, high] = [low - 1, low + 1];
    for (const { norms, look, other } of lines) {
      let path = "";
      let pen = "M";
      for (let time = 0; time < count; time++) {
        if (norms[time] > 0 && norms[time] < Infinity) {
          const x = ((time + 0.5) / count) * 1000;
          const y = 95 - ((Math.log10(norms[time]) - low) / (high - low)) * 90;
          path += `${pen}${x.toFixed(2)} ${y.toFixed(2)}`;
          pen = "L";
        } else pen = "M";
      }
      place.append(shape("path", { d: path, class: `${look} ${other}` }));
    }
    for (const stop of layer().stops) {
      const x = ((stop.t - layer().first + 0.5) / count) * 1000;
      place.append(shape("line", { x1: x, x2: x, y1: 0, y2: 8, class: "stop" }));
    }
    const said = lines.filter((line) => !line.other).map((line, k) => `|${line.name}| ${k ? "- - -" : "——"}`).join("   ");
    write($("legend"), Number.isFinite(low) ? `${said}   1e${Math.floor(low)} … 1e${Math.ceil(high)}` : said);
    place.setAttribute("aria-label", `${words.norms}: ${said}, 1e${Math.floor(low)} … 1e${Math.ceil(high)}`);
  }

  // ---------------------------------------------------------------------------------------------- equations

  const RANKS = { ">": 1, ">=": 1, "<": 1, "<=": 1, chain: 1, "+": 2, "-": 2, "*": 3, "/": 3, "@": 4, negative: 5, "**": 6 };
  const SIGNS = { "*": " · ", "@": " @ ", "**": " ** " };
  const COMPARED = { ">": (x, y) => +(x > y), ">=": (x, y) => +(x >= y), "<": (x, y) => +(x < y), "<=": (x, y) => +(x <= y) };
  const rank = (tree) => RANKS[tree[0]] || 9;

  // Of a weight the entries of one row (of one column, transposed), of a bias one entry.
  function weightOf(reference, unit, transposed) {
    const values = block(reference.weight);
    const columns = reference.columns[0];
    if (columns === undefined) return { single: values[unit] };
    const whole = header.blocks[reference.weight].shape[1];
    if (transposed) return { count: reference.rows, at: (k) => values[(reference.start + k) * whole + unit] };
    return { count: columns, at: (k) => values[(reference.start + unit) * whole + k] };
  }

  // The value of a tree for one unit: {value, about: whether its last digits may be others, known}.
  function evaluate(tree, unit) {
    const [kind] = tree;
    if (kind === "number") return { value: tree[1], known: true };
    if (kind === "name") return named(tree[1], unit, true);
    if (kind === "@") return product(tree, unit);
    if (kind === "call") {
      const given = tree.slice(2).map((part) => evaluate(part, unit));
      if (given.some((one) => !one.known)) return { known: false };
      const [inner, second, third] = given;
      if (tree[1] === "where") {
        const chosen = inner.value ? second : third;
        return { ...chosen, about: Boolean(inner.about || chosen.about) };
      }
      if (tree[1] === "clip") return { ...inner, value: Math.min(Math.max(inner.value, second.value), third.value) };
      const sech = (a) => {
        const small = Math.exp(-Math.abs(a));
        return (2 * small) / (1 + small * small);
      };
      const functions = { tanh: Math.tanh, sigmoid: (a) => (1 + Math.tanh(a / 2)) / 2, relu: (a) => (a <= 0 ? 0 : a), exp: Math.exp, log: Math.log, sech, sqrt: Math.sqrt, abs: Math.abs };
      const use = functions[tree[1]];
      return use ? { value: round(use(inner.value)), known: true, about: !["relu", "abs"].includes(tree[1]) || inner.about } : { known: false };
    }
    if (kind === "negative") {
      const inner = evaluate(tree[1], unit);
      return { ...inner, value: -inner.value };
    }
    if (kind === "chain") {
      const sides = tree.slice(3).map((part) => evaluate(part, unit));
      if (sides.some((one) => !one.known)) return { known: false };
      const holds = [tree[1], tree[2]].every((sign, k) => COMPARED[sign](sides[k].value, sides[k + 1].value));
      return { value: +holds, known: true, about: sides.some((one) => one.about) };
    }
    if (!(kind in RANKS)) return { known: false };
    const a = evaluate(tree[1], unit);
    const b = evaluate(tree[2], unit);
    const known = a.known && b.known;
    if (!known) return { known };
    const operators = { "+": (x, y) => x + y, "-": (x, y) => x - y, "*": (x, y) => x * y, "/": (x, y) => x / y, ...COMPARED };
    const power = (x, y) => (y === 2 ? x * x : x ** y);
    return { value: round((operators[kind] || power)(a.value, b.value)), known, about: Boolean(a.about || b.about || (kind === "**" && b.value !== 2)) };
  }

  // `spread`: what has one unit, a gate for all of a context say, stands for every one.
  function named(name, unit, spread = false) {
    const reference = layer().references[name];
    if (!reference) return { known: false };
    if (reference.array !== undefined) {
      const array = find(reference.array);
      const place = spread && array.width === 1 ? 0 : unit;
      if (place >= array.width) return { known: false };
      const start = ((state.time + Number(reference.row)) * header.sequences.length + state.sequence) * array.width;
      return { value: data(array)[start + place], known: true };
    }
    if (reference.block !== undefined) {
      const place = spread && reference.width === 1 ? 0 : unit;
      if (place >= reference.width) return { known: false };
      return { value: block(reference.block)[(state.time * header.sequences.length + state.sequence) * reference.width + place], known: true };
    }
    if (reference.tree !== undefined) return evaluate(reference.tree, unit);
    const weight = weightOf(reference, unit);
    return weight.single === undefined ? { known: false } : { value: weight.single, known: true };
  }

  // The width of what a product runs over, and its terms.
  function terms(tree, unit) {
    const reference = layer().references[tree[1]];
    if (!reference || reference.weight === undefined) return null;
    const weight = weightOf(reference, unit, tree[2]);
    const found = [];
    for (let k = 0; k < weight.count; k++) {
      const other = gathered(tree[3], k);
      if (!other.known) return null;
      found.push(round(weight.at(k) * other.value));
    }
    return found;
  }

  // An entry of `da` of a cell whose gates are arrays of their own is an entry of one of these.
  function gathered(tree, k) {
    const direct = tree[0] === "name" ? named(tree[1], k) : evaluate(tree, k);
    if (direct.known || tree[0] !== "name") return direct;
    const parts = (layer().joined || {})[tree[1]];
    if (!parts) return direct;
    let start = 0;
    for (const part of parts) {
      const array = find(part);
      if (!array) return direct;
      if (k < start + array.width) return named(part, k - start);
      start += array.width;
    }
    return direct;
  }

  function product(tree, unit) {
    const found = terms(tree, unit);
    if (!found) return { known: false };
    return { value: found.reduce((sum, term) => round(sum + term), 0), known: true, about: true };
  }

  // A number without its parentheses, where it stands alone.
  const bare = (part) => (typeof part === "string" && /^\([^()]*\)$/.test(part) ? part.slice(1, -1) : part);

  // An expression with names (buttons that choose the array) or with numbers.
  function spell(tree, numbers, unit, into) {
    const [kind] = tree;
    const inside = (part, least) => {
      const closed = rank(part) < least;
      if (closed) into.push("(");
      spell(part, numbers, unit, into);
      if (closed) into.push(")");
    };
    if (kind === "number") into.push(String(tree[1]));
    else if (kind === "name" && !numbers) into.push({ name: tree[1] });
    else if (kind === "name" || (kind === "@" && numbers)) {
      const found = evaluate(tree, unit);
      const text = found.known ? number(found.value) : tree[1];
      const said = found.known && found.about ? `≈${text}` : text;
      into.push(text.startsWith("-") ? `(${said})` : said);
    } else if (kind === "@") {
      into.push({ name: tree[1] }, tree[2] ? ".T @ " : " @ ");
      inside(tree[3], 5);
    } else if (kind === "call") {
      into.push(`${tree[1]}(`);
      for (const [k, part] of tree.slice(2).entries()) {
        const inner = [];
        spell(part, numbers, unit, inner);
        into.push(...(k ? [", "] : []), ...(inner.length === 1 ? inner.map(bare) : inner));
      }
      into.push(")");
    } else if (kind === "chain") {
      for (const [k, part] of tree.slice(3).entries()) {
        if (k) into.push(` ${tree[k]} `);
        inside(part, 2);
      }
    } else if (kind === "negative") {
      into.push("-");
      inside(tree[1], 5);
    } else if (kind === "text") into.push(tree[1]);
    else {
      inside(tree[1], rank(tree));
      into.push(SIGNS[kind] || ` ${kind} `);
      inside(tree[2], rank(tree) + 1);
    }
  }

  function line(parts, into) {
    for (const part of parts) {
      if (typeof part === "string") into.append(part);
      else {
        const known = layer().references[part.name];
        const place = known && known.array !== undefined ? layer().arrays.findIndex((array) => array.name === known.array) : -1;
        if (place < 0) into.append(part.name);
        else {
          const button = element("button", part.name, { type: "button" });
          button.addEventListener("click", () => change({ array: place }));
          into.append(button);
        }
      }
    }
  }

  // The equation that makes the chosen array, and those that read it: the frame is made once, numbers are written.
  let panel = [];

  function layEquations() {
    const place = $("lines");
    place.textContent = "";
    panel = [];
    if (!layer().equations.length) {
      place.append(element("p", words["no equations"]));
      return;
    }
    const { name, state: isState } = chosen();
    const wanted = [name, ...(isState && name.startsWith("d") ? [`${name}_prev`] : [])];
    const order = [...layer().equations.filter((one) => wanted.includes(one.target)), ...layer().equations.filter((one) => !wanted.includes(one.target))];
    for (const one of order) {
      const box = element("div", undefined, { class: "equation" });
      const top = element("p", undefined, { class: "symbols" });
      line([{ name: one.target }, " = "], top);
      const parts = [];
      if (one.before) parts.push(one.before, " + ");
      for (const [k, [, tree]] of one.terms.entries()) {
        if (k) parts.push(" + ");
        spell(tree, false, 0, parts);
      }
      line(parts, top);
      top.append(element("span", `   ${one.labels}`, { class: "labels" }));
      const middle = element("p", "", { class: "numbers" });
      const result = element("p", "", { class: "result" });
      const notes = element("p", "", { class: "note" });
      box.append(top, middle, result, notes);
      place.append(box);
      panel.push({ one, middle, result, notes, box });
    }
    place.append(element("p", words.approx, { class: "note" }));
  }

  // What the step visited before handed back to a further state, by its equations; null where it is not known.
  function handedTo(one) {
    const from = layer().equations.find((other) => other.later && other.target === `${one.target}_prev`);
    const time = state.time;
    const there = time + (layer().reverse ? -1 : 1);
    if (!from || there < 0 || there >= layer().count) return null;
    state.time = there;
    const found = from.terms.map(([, tree]) => evaluate(tree, state.unit));
    state.time = time;
    return found.every((one_) => one_.known && !one_.about) ? found.reduce((sum, one_, k) => (k ? round(sum + one_.value) : one_.value), 0) : null;
  }

  function writeEquations() {
    const { unit } = state;
    for (const { one, middle, result, notes, box } of panel) {
      const has = named(one.target, unit);
      const reference = layer().references[one.target];
      const isTree = reference && reference.tree !== undefined;
      const parts = [];
      let sum = { value: 0, known: true, about: false };
      const products = [];
      for (const [k, [, tree]] of one.terms.entries()) {
        if (k) parts.push(" + ");
        spell(tree, true, unit, parts);
        const value = evaluate(tree, unit);
        sum = k === 0 ? value : { value: round(sum.value + value.value), known: sum.known && value.known, about: sum.about || value.about };
        const stack = [tree];
        while (stack.length) {
          const next = stack.pop();
          if (next[0] === "@") products.push(next);
          for (const part of next.slice(1)) if (Array.isArray(part)) stack.push(part);
        }
      }
      const isThere = has.known || sum.known;
      box.hidden = !isThere;
      if (!isThere) continue;
      const said = [];
      if (one.before) {
        const handed = handedTo(one);
        if (handed !== null && sum.known) {
          parts.unshift(number(handed), " + ");
          sum.value = round(handed + sum.value);
        } else if (sum.known && has.known) {
          parts.unshift(`≈${number(round(has.value - sum.value))}`, " + ");
          said.push(`${one.before}: ${words.rest}`);
          sum.known = false;
        } else parts.unshift(one.before, " + ");
      }
      write(middle, `= ${parts.length === 1 ? bare(parts[0]) : parts.join("")}`);
      const made = sum.known ? `${sum.about ? "≈" : ""}${number(sum.value)}` : "";
      if (one.later) {
        write(result, `= ${made}`);
        said.push(words.later);
      } else if (isTree || !has.known) write(result, `= ${made || number(has.value)}`);
      else if (!sum.known) write(result, `${words.recorded} ${number(has.value)}`);
      else write(result, `= ${made}   ${words.recorded} ${number(has.value)}${digits ? "" : `, ${apart(sum.value, has.value)} ulp`}`);
      for (const tree of products) {
        const found = terms(tree, unit);
        if (!found) continue;
        const places = found.map((_, k) => k).sort((a, b) => Math.abs(found[b]) - Math.abs(found[a]));
        const shown = places.slice(0, 3).map((k) => `${number(found[k])} (${k})`);
        const rest = places.slice(3).reduce((total, k) => total + found[k], 0);
        if (places.length > 3) shown.push(`${short(rest)} (${places.length - 3} ${words.more})`);
        const right = [];
        spell(tree[3], false, 0, right);
        const of = right.map((part) => (typeof part === "string" ? part : part.name)).join("");
        said.push(`${tree[1]}${tree[2] ? ".T" : ""} @ ${of} = ${shown.join(" + ").replaceAll("+ -", "- ")}`);
      }
      write(notes, said.join("; "));
    }
  }

  // ---------------------------------------------------------------------------------------------- tables

  function rows(place, count, columns) {
    while (place.rows.length > count) place.deleteRow(-1);
    while (place.rows.length < count) {
      const row = place.insertRow();
      for (let column = 0; column < columns; column++) {
        const cell = element(column ? "td" : "th");
        if (!column) cell.setAttribute("scope", "row");
        row.append(cell);
      }
    }
    return place.rows;
  }

  function headed(id, titles) {
    const head = $(id).tHead;
    head.textContent = "";
    $(id).tBodies[0].textContent = "";
    const row = head.insertRow();
    for (const title of titles) row.append(element("th", title, { scope: "col" }));
  }

  const compared = () => layer().arrays.some((array) => array.other !== undefined);

  function layTables() {
    headed("step", [words.array, `${words.value} ${state.unit}`, words.next, ...(compared() ? [words.other, words.ulps] : []), words.min, words.max, words.norm, words.bad]);
    headed("units", [words.unit, lead() ? lead().name : "", words.share, words.next]);
    headed("table", [words.unit, ...layer().arrays.map((array) => array.name)]);
  }

  const lead = () => (chosen().width > 1 ? chosen() : find(`d${layer().states[0]}`) || find(layer().states[0]));

  function writeStep() {
    const { arrays, count } = layer();
    const columns = compared() ? 9 : 7;
    const found = rows($("step").tBodies[0], arrays.length, columns);
    write($("step").tHead.rows[0].cells[1], `${words.value} ${state.unit}`);
    for (const [k, array] of arrays.entries()) {
      const values = data(array);
      const start = offset(array, state.time, state.sequence);
      let low = Infinity;
      let high = -Infinity;
      let bad = 0;
      for (let unit = 0; unit < array.width; unit++) {
        const value = values[start + unit];
        if (!(Math.abs(value) < Infinity)) bad++;
        else {
          if (value < low) low = value;
          if (value > high) high = value;
        }
      }
      const there = state.unit < array.width;
      const { cells } = found[k];
      const texts = [array.name, there ? exact(values[start + state.unit]) : "", there && state.time + 1 < count ? exact(entry(array, state.time + 1, state.sequence, state.unit)) : ""];
      if (columns === 9) {
        const other = there && array.other !== undefined ? block(array.other)[start + state.unit] : undefined;
        texts.push(other === undefined ? "" : exact(other), other === undefined ? "" : String(apart(values[start + state.unit], other)));
      }
      const finite = bad < array.width;
      texts.push(finite ? short(low) : "", finite ? short(high) : "", short(norm(values, start, array.width)), String(bad));
      for (const [place, text] of texts.entries()) write(cells[place], text);
      cells[columns - 1].className = bad ? "bad" : "";
      found[k].className = k === state.array ? "chosen" : "";
    }
  }

  function writeUnits() {
    const array = lead();
    if (!array) return;
    write($("units-title"), `${words["units by"]} |${array.name}|`);
    write($("units").tHead.rows[0].cells[1], array.name);
    const values = data(array);
    const start = offset(array, state.time, state.sequence);
    const whole = norm(values, start, array.width);
    // The largest eight, without sorting all.
    const most = [];
    for (let unit = 0; unit < array.width; unit++) {
      const size = Math.abs(values[start + unit]);
      if (most.length === 8 && !(size > Math.abs(values[start + most[7]]))) continue;
      let place = most.length;
      while (place > 0 && size > Math.abs(values[start + most[place - 1]])) place--;
      most.splice(place, 0, unit);
      if (most.length > 8) most.pop();
    }
    const found = rows($("units").tBodies[0], most.length, 4);
    for (const [k, unit] of most.entries()) {
      const { cells } = found[k];
      const value = values[start + unit];
      write(cells[0], String(unit));
      write(cells[1], exact(value));
      write(cells[2], whole > 0 && whole < Infinity ? `${(100 * (value / whole) ** 2).toFixed(1)} %` : "");
      write(cells[3], state.time + 1 < layer().count ? exact(entry(array, state.time + 1, state.sequence, unit)) : "");
      found[k].className = unit === state.unit ? "chosen" : "";
    }
  }

  function writeTable() {
    const { arrays } = layer();
    const widest = Math.max(...arrays.map((array) => array.width));
    const found = rows($("table").tBodies[0], Math.min(widest, MOST_UNITS), arrays.length + 1);
    for (let unit = 0; unit < found.length; unit++) {
      const { cells } = found[unit];
      write(cells[0], String(unit));
      for (const [k, array] of arrays.entries()) write(cells[k + 1], unit < array.width ? exact(entry(array, state.time, state.sequence, unit)) : "");
    }
    const place = `t = ${state.time + layer().first}`;
    write($("table-title"), `${words["table of step"]}, ${place}${widest > MOST_UNITS ? ` (${words["first units"]} ${MOST_UNITS})` : ""}`);
  }

  // ---------------------------------------------------------------------------------------------- (t, k)

  function layMatrix() {
    const { tk } = layer();
    $("tk-section").hidden = !tk;
    if (!tk) return;
    const values = block(tk.block);
    const canvas = $("tk");
    canvas.width = tk.size;
    canvas.height = tk.size;
    let low = Infinity;
    let high = 0;
    for (const value of values) {
      if (value > 0 && value < Infinity) {
        low = Math.min(low, value);
        high = Math.max(high, value);
      }
    }
    const context = canvas.getContext("2d");
    const image = context.createImageData(tk.size, tk.size);
    const pixels = new Int32Array(image.data.buffer);
    const base = Math.log2(low);
    const span = Math.max(Math.log2(high) - base, 1e-9);
    for (let place = 0; place < values.length; place++) {
      const value = Math.abs(values[place]);
      if (!(value < Infinity)) pixels[place] = HATCH[place & 1];
      else pixels[place] = value === 0 ? paper : sizes[Math.max(0, Math.min(255, Math.round(((Math.log2(value) - base) / span) * 255)))];
    }
    context.putImageData(image, 0, 0);
    counts.paints++;
    const said = high > 0 ? `${short(low)} … ${short(high)}, ${words["colours size"]}` : words.zero;
    canvas.setAttribute("aria-label", `${words.tk}: ${said}`);
    write($("tk-about"), `t ↓, k →; ${said}${tk.tile > 1 ? `; ${words.tiles} ${tk.tile} × ${tk.tile}` : ""}`);
  }

  function writeMatrix() {
    const { tk, first } = layer();
    if (!tk) return;
    const values = block(tk.block);
    const row = Math.floor(state.time / tk.tile);
    $("tk-row").style.top = `${(row / tk.size) * 100}%`;
    $("tk-row").style.height = `${100 / tk.size}%`;
    let total = 0;
    let most = 0;
    for (let k = 0; k < tk.size; k++) {
      const value = values[row * tk.size + k];
      if (value < Infinity) {
        total += value;
        most = Math.max(most, value);
      }
    }
    let path = "";
    const places = [];
    for (let k = 0; k < tk.size; k++) {
      const value = values[row * tk.size + k];
      if (value > 0) places.push(k);
      path += `${k ? "L" : "M"}${(((k + 0.5) / tk.size) * 1000).toFixed(1)} ${(97 - (most > 0 && value > 0 ? (value / most) * 94 : 0)).toFixed(1)}`;
    }
    let drawn = $("tk-profile").firstChild;
    if (!drawn) {
      drawn = shape("path", {});
      $("tk-profile").append(drawn);
    }
    drawn.setAttribute("d", path);
    const t = row * tk.tile + first;
    const said = `${words.row} ${t}, ${words.total} ${short(total)}`;
    write($("tk-text"), said);
    $("tk-profile").setAttribute("aria-label", `${said}, ${words.largest} ${short(most)}`);
    places.sort((a, b) => values[row * tk.size + b] - values[row * tk.size + a]);
    const list = $("tk-largest");
    const wanted = places.slice(0, 5);
    while (list.children.length > wanted.length) list.lastChild.remove();
    while (list.children.length < wanted.length) {
      const item = element("li");
      const button = element("button", "", { type: "button" });
      button.addEventListener("click", () => change({ time: Number(button.dataset.k) }));
      item.append(button);
      list.append(item);
    }
    for (const [place, k] of wanted.entries()) {
      const button = list.children[place].firstChild;
      button.dataset.k = String(k * tk.tile);
      const value = values[row * tk.size + k];
      write(button, `k = ${k * tk.tile + first}: ${exactDouble(value)}, ${((100 * value) / total).toFixed(1)} %`);
    }
  }

  // Of a matrix (t, k), which is float64 whatever the run is.
  const exactDouble = (value) => (Number.isFinite(value) ? written(value.toExponential(), true, value) : exact(value));

  // ---------------------------------------------------------------------------------------------- stops

  function layStops() {
    const list = $("stops");
    list.textContent = "";
    write($("origin"), header.origin ? `${words.origin} ${header.origin}` : "");
    for (const stop of layer().stops) {
      const item = element("li");
      const button = element("button", `t = ${stop.t}: ${stop.condition}${stop.evidence ? `: ${stop.evidence}` : ""}`, { type: "button" });
      button.addEventListener("click", () => change({ time: stop.t - layer().first }));
      item.append(button);
      list.append(item);
    }
    if (!layer().stops.length) list.append(element("li", words["no stops"]));
  }

  // The next stop in the order of the pass, or the one before it.
  function toStop(sign) {
    const rising = layer().reverse === layer().backward ? 1 : -1;
    const places = layer().stops.map((stop) => stop.t - layer().first).filter((time) => (time - state.time) * rising * sign > 0);
    if (!places.length) return;
    change({ time: places.reduce((near, time) => (Math.abs(time - state.time) < Math.abs(near - state.time) ? time : near)) });
  }

  // ---------------------------------------------------------------------------------------------- one update a frame

  let waiting = false;
  let stale = {};
  let told = 0;
  let telling = 0;
  let linking = 0;

  function change(wanted) {
    const before = { ...state };
    Object.assign(state, wanted);
    if (state.layer !== before.layer) {
      state.array = Math.min(state.array, layer().arrays.length - 1);
      const name = header.layers[before.layer].arrays[before.array].name;
      const same = layer().arrays.findIndex((array) => array.name === name);
      if (same >= 0 && wanted.array === undefined) state.array = same;
    }
    state.time = Math.max(0, Math.min(layer().count - 1, Math.round(state.time) || 0));
    state.sequence = Math.max(0, Math.min(header.sequences.length - 1, state.sequence));
    const widest = Math.max(...layer().arrays.map((array) => array.width));
    state.unit = Math.max(0, Math.min(widest - 1, Math.round(state.unit) || 0));
    for (const name of Object.keys(state)) if (state[name] !== before[name]) stale[name] = true;
    if (!waiting && Object.keys(stale).length) {
      waiting = true;
      requestAnimationFrame(update);
    }
  }

  function update() {
    const began = performance.now();
    const old = stale;
    stale = {};
    waiting = false;
    counts.updates++;
    if (old.layer || old.runs) {
      layOut();
      options();
    } else if (old.sequence || old.colours) for (const map of maps) paint(map);
    if (old.layer || old.sequence) drawNorms();
    if (old.layer || old.array) layEquations();
    if (old.layer || old.array) layTables();
    if (old.layer) {
      layMatrix();
      layStops();
    }
    writeControls(old);
    $("cursor").style.left = `${((state.time + 0.5) / layer().count) * 100}%`;
    if (old.layer || old.unit || old.array || old.runs) {
      for (const { array, number: k, outline, button } of maps) {
        outline.hidden = state.unit >= array.width || array.width === 1;
        outline.style.bottom = `${(state.unit / array.width) * 100}%`;
        outline.style.height = `${100 / array.width}%`;
        button.setAttribute("aria-pressed", String(k === state.array));
      }
    }
    writeStep();
    writeUnits();
    writeEquations();
    writeMatrix();
    $("table-section").hidden = !state.table;
    $("show-table").setAttribute("aria-pressed", String(state.table));
    if (state.table) writeTable();
    tell();
    link();
    counts.times.push(performance.now() - began);
    if (state.playing) requestAnimationFrame(playOn);
  }

  function options() {
    const fill = (id, texts) => {
      $(id).textContent = "";
      for (const [place, text] of texts.entries()) $(id).append(element("option", text, { value: String(place) }));
    };
    fill("layer", header.layers.map((one) => one.name));
    fill("sequence", header.sequences.map((one) => String(one.n)));
    fill("array", layer().arrays.map((one) => one.name));
    $("time").max = String(layer().count - 1);
    $("goto").min = String(layer().first);
    $("goto").max = String(layer().first + layer().count - 1);
    write($("order"), !layer().backward ? words["no gradients"] : layer().reverse ? words["backward right"] : words["backward left"]);
  }

  function writeControls() {
    const set = (id, value) => {
      if ($(id).value !== String(value) && document.activeElement !== $(id)) $(id).value = String(value);
    };
    set("layer", state.layer);
    set("sequence", state.sequence);
    set("array", state.array);
    set("unit", state.unit);
    set("colours", state.colours);
    set("runs", state.runs);
    $("runs-field").hidden = !compared();
    $("digits").checked = state.digits;
    if ($("time").value !== String(state.time)) $("time").value = String(state.time);
    const t = state.time + layer().first;
    set("goto", t);
    write($("place"), String(t));
    $("time").setAttribute("aria-valuetext", spoken());
    $("about").dataset.place = `${layer().name}, n = ${header.sequences[state.sequence].n}, t = ${t}, ${words.unit} ${state.unit}`;
  }

  function spoken() {
    const { length } = header.sequences[state.sequence];
    const t = state.time + layer().first;
    let said = `t = ${t} ${words.of} ${layer().count}`;
    if (t >= length) said += `, ${words["no such step"]}`;
    else if (!isReached(state.time)) said += `, ${words["not reached"]}`;
    else if (lines.length) {
      const { name, norms } = lines[0];
      said += `, ${words["norm of"]} ${name} ${short(norms[state.time])}`;
      const visited = state.time + (layer().reverse === layer().backward ? -1 : 1);
      if (norms[visited] > 0) said += `, ${short(norms[state.time] / norms[visited])} ${words["times after"]}`;
    }
    return said;
  }

  // What a screen reader is told: the last of what happened, at most three times a second.
  function tell() {
    clearTimeout(telling);
    telling = setTimeout(
      () => {
        told = performance.now();
        const array = chosen();
        const there = state.unit < array.width ? `, ${array.name} ${words.unit} ${state.unit}: ${short(entry(array, state.time, state.sequence, state.unit))}` : "";
        write($("live"), spoken() + there);
      },
      Math.max(60, told + 350 - performance.now()),
    );
  }

  // The place in the address, once it rests: browsers refuse many changes in a row.
  function link() {
    clearTimeout(linking);
    linking = setTimeout(() => {
      const place = `#l=${layer().name}&n=${header.sequences[state.sequence].n}&a=${chosen().name}&u=${state.unit}&t=${state.time + layer().first}`;
      if (window.location.hash === place) return;
      try {
        window.history.replaceState(null, "", place);
      } catch (refused) {
        // In a notebook's frame there is no address.
      }
    }, 250);
  }

  function fromAddress() {
    const wanted = {};
    const given = new URLSearchParams(window.location.hash.slice(1));
    const whole = (name) => (/^\d{1,9}$/.test(given.get(name) || "") ? Number(given.get(name)) : null);
    const at = header.layers.findIndex((one) => one.name === given.get("l"));
    if (at >= 0) wanted.layer = at;
    const of = header.layers[wanted.layer === undefined ? state.layer : wanted.layer];
    const sequence = header.sequences.findIndex((one) => one.n === whole("n"));
    if (sequence >= 0) wanted.sequence = sequence;
    const array = of.arrays.findIndex((one) => one.name === given.get("a"));
    if (array >= 0) wanted.array = array;
    if (whole("u") !== null) wanted.unit = whole("u");
    if (whole("t") !== null) wanted.time = whole("t") - of.first;
    return wanted;
  }

  // ---------------------------------------------------------------------------------------------- what a person does

  function playOn() {
    if (!state.playing) return;
    const rising = layer().reverse === layer().backward ? 1 : -1;
    const time = state.time + rising;
    if (time < 0 || time >= layer().count) play(false);
    else change({ time });
  }

  function play(on) {
    if (on && still.matches) {
      clearTimeout(telling);
      write($("live"), words.reduced);
      return;
    }
    state.playing = on;
    $("play").setAttribute("aria-pressed", String(on));
    if (on) playOn();
  }

  function pressed(event) {
    const { target, key } = event;
    if (event.ctrlKey || event.altKey || event.metaKey || $("keys").open) return;
    const field = target.closest && target.closest("input, select, textarea");
    if (field && field !== $("time") && field.type !== "checkbox") return;
    const own = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End", "PageUp", "PageDown"];
    if (field === $("time") && own.includes(key) && !event.shiftKey) return;
    if (key === " " && target.closest && target.closest("button, input[type=checkbox], summary")) return;
    const far = event.shiftKey ? 10 : 1;
    const actions = {
      ArrowLeft: () => change({ time: state.time - far }),
      ArrowRight: () => change({ time: state.time + far }),
      Home: () => change({ time: 0 }),
      End: () => change({ time: layer().count - 1 }),
      ArrowUp: () => change({ unit: state.unit + 1 }),
      ArrowDown: () => change({ unit: state.unit - 1 }),
      "[": () => change({ sequence: state.sequence - 1 }),
      "]": () => change({ sequence: state.sequence + 1 }),
      n: () => toStop(1),
      p: () => toStop(-1),
      g: () => {
        $("goto").focus();
        $("goto").select();
      },
      e: () => {
        $("equations").focus();
        $("equations").scrollIntoView({ block: "nearest" });
      },
      t: () => change({ table: !state.table }),
      d: () => change({ digits: !state.digits }),
      " ": () => play(!state.playing),
      "?": () => $("keys").showModal(),
    };
    if (!(key in actions)) return;
    event.preventDefault();
    actions[key]();
  }

  function listen() {
    document.addEventListener("keydown", pressed);
    $("time").addEventListener("input", () => change({ time: Number($("time").value) }));
    $("layer").addEventListener("change", () => change({ layer: Number($("layer").value) }));
    $("sequence").addEventListener("change", () => change({ sequence: Number($("sequence").value) }));
    $("array").addEventListener("change", () => change({ array: Number($("array").value) }));
    $("unit").addEventListener("input", () => change({ unit: Number($("unit").value) }));
    $("colours").addEventListener("change", () => change({ colours: $("colours").value }));
    $("runs").addEventListener("change", () => change({ runs: $("runs").value }));
    $("digits").addEventListener("change", () => change({ digits: $("digits").checked }));
    $("goto").addEventListener("change", () => change({ time: Number($("goto").value) - layer().first }));
    $("goto").addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === "Escape") $("time").focus();
    });
    $("first").addEventListener("click", () => change({ time: 0 }));
    $("before").addEventListener("click", () => change({ time: state.time - 1 }));
    $("after").addEventListener("click", () => change({ time: state.time + 1 }));
    $("last").addEventListener("click", () => change({ time: layer().count - 1 }));
    $("play").addEventListener("click", () => play(!state.playing));
    $("show-table").addEventListener("click", () => change({ table: !state.table }));
    $("show-keys").addEventListener("click", () => $("keys").showModal());
    follow($("norms"), (time) => change({ time }));
    $("tk").addEventListener("click", (event) => {
      const box = $("tk").getBoundingClientRect();
      change({ time: Math.floor(((event.clientX - box.left) / box.width) * layer().tk.size) * layer().tk.tile });
    });
    window.addEventListener("hashchange", () => change(fromAddress()));
    dark.addEventListener("change", () => {
      mixColours();
      for (const map of maps) paint(map);
      layMatrix();
    });
    still.addEventListener("change", motion);
    window.addEventListener("beforeprint", () => {
      writeTable();
    });
  }

  function motion() {
    $("play").hidden = still.matches;
    if (still.matches) play(false);
  }

  function layKeys() {
    for (const [name, text] of Object.entries(words)) {
      if (name.startsWith("key ")) $("keys-list").append(element("dt", name.slice(4)), element("dd", text));
    }
  }

  function layRest() {
    const { first, count } = header.layers[0];
    write($("about"), `${header.layer}, t = ${first} … ${first + count - 1}, N = ${header.N}, ${header.dtype}; ${words[`precision ${header.precision}`]}. ${header.made}`);
    $("compare-section").hidden = header.compare === null;
    if (header.compare !== null) {
      const same = header.apart === null;
      write($("compare-text"), same ? words["nothing differs"] : `${words["first difference"]} ${header.compare}`);
      $("compare-go").hidden = same;
      $("compare-go").addEventListener("click", () => {
        const at = header.layers.findIndex((one) => one.name === header.apart.layer);
        const wanted = { layer: at, time: header.apart.t - header.layers[at].first };
        const array = header.layers[at].arrays.findIndex((one) => one.name === header.apart.name);
        if (array >= 0) Object.assign(wanted, { array, unit: header.apart.unit });
        change(wanted);
      });
    }
    $("gradients-section").hidden = !header.gradients.length;
    headed("gradients", [words.parameter, words.shape, words.norm, words.bad]);
    const found = rows($("gradients").tBodies[0], header.gradients.length, 4);
    for (const [k, one] of header.gradients.entries()) {
      for (const [place, text] of [one.name, one.shape.join(" × "), one.norm, String(one.bad)].entries()) write(found[k].cells[place], text);
      found[k].cells[3].className = one.bad ? "bad" : "";
    }
  }

  // The top layer, where the pass begins.
  const top = header.layers.findLastIndex((one) => !one.reverse);
  layKeys();
  layRest();
  listen();
  motion();
  const start = header.layers[top];
  const wide = start.arrays.findIndex((array) => array.name === `d${start.states[0]}`);
  Object.assign(state, { layer: top, array: Math.max(0, wide), time: start.backward === start.reverse ? 0 : start.count - 1 });
  Object.assign(stale, { layer: true });
  change(fromAddress());
  stale.layer = true;
  update();
})();
