// What the browser does by itself: show and hide, choose a face, write files. Pages come as HTML from stage.py.
(() => {
  if (window.flmPage) return;
  window.flmPage = {save};
  const show = new Set(['points', 'lines']);

  function apply() {
    const shown = [...show].join(' ');
    // Not each time: a live frame calls this, and styles would be found anew.
    if (document.body.dataset.show !== shown) document.body.dataset.show = shown;
    for (const chip of document.querySelectorAll('[data-toggle]')) {
      const pressed = String(show.has(chip.dataset.toggle));
      if (chip.getAttribute('aria-pressed') !== pressed) chip.setAttribute('aria-pressed', pressed);
    }
    for (const table of document.querySelectorAll('.plain table')) if (!table.closest('.scroll')) letScroll(table);
    for (const answer of document.querySelectorAll('.answer')) {
      if (!answer.dataset.chosen && answer.querySelector('.crop')) choose(answer, '0');
    }
  }

  // Tables of the card, which Gradio makes of Markdown, are wider than a phone.
  function letScroll(table) {
    const region = Object.assign(document.createElement('div'), {className: 'scroll', tabIndex: 0});
    region.setAttribute('role', 'region');
    region.setAttribute('aria-label', 'Table');
    table.replaceWith(region);
    region.append(table);
  }

  function choose(answer, number) {
    answer.dataset.chosen = number;
    for (const crop of answer.querySelectorAll('.crop')) crop.hidden = crop.dataset.face !== number;
    for (const face of answer.querySelectorAll('g.face')) face.classList.toggle('chosen', face.dataset.face === number);
    for (const pick of answer.querySelectorAll('.pick')) pick.setAttribute('aria-pressed', String(pick.dataset.face === number));
  }

  // Of live.js too.
  function save(name, blob) {
    const link = document.createElement('a');
    link.href = URL.createObjectURL(blob);
    link.download = name;
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  // The overlay as an image needs its styles inside itself.
  const DRAWN = ['fill', 'fill-opacity', 'stroke', 'stroke-width', 'stroke-opacity', 'stroke-dasharray', 'stroke-linecap',
    'stroke-linejoin', 'paint-order', 'vector-effect', 'font-family', 'font-weight', 'display'];

  async function png(answer) {
    const image = answer.querySelector('.stage img');
    const svg = answer.querySelector('.stage svg');
    const copy = svg.cloneNode(true);
    const shapes = [...svg.querySelectorAll('*')], copies = [...copy.querySelectorAll('*')];
    shapes.forEach((shape, i) => {
      const style = getComputedStyle(shape);
      for (const name of DRAWN) copies[i].style.setProperty(name, style.getPropertyValue(name));
    });
    for (const press of copy.querySelectorAll('.press')) press.remove();
    const width = image.naturalWidth, height = image.naturalHeight;
    // Strokes keep their width on the screen; they keep it in the file too.
    const scale = Math.max(1, svg.clientWidth ? width / svg.clientWidth : 1);
    for (const shape of copy.querySelectorAll('*')) {
      const stroke = parseFloat(shape.style.strokeWidth);
      if (stroke) shape.style.strokeWidth = stroke * scale + 'px';
    }
    copy.setAttribute('xmlns', 'http://www.w3.org/2000/svg');
    copy.setAttribute('width', width);
    copy.setAttribute('height', height);
    const drawn = new Image();
    drawn.src = 'data:image/svg+xml;charset=utf-8,' + encodeURIComponent(new XMLSerializer().serializeToString(copy));
    await drawn.decode();
    const canvas = Object.assign(document.createElement('canvas'), {width, height});
    const context = canvas.getContext('2d');
    context.drawImage(image, 0, 0, width, height);
    context.drawImage(drawn, 0, 0, width, height);
    return new Promise(done => canvas.toBlob(done, 'image/png'));
  }

  async function download(answer, kind) {
    const name = answer.dataset.name || 'picture';
    const text = (content, type) => new Blob([content], {type});
    if (kind === 'png') return save(`${name}.png`, await png(answer));
    if (kind === 'csv') return save(`${name}.csv`, text(answer.dataset.csv, 'text/csv'));
    if (kind === 'json') return save(`${name}.json`, text(answer.dataset.record + '\n', 'application/json'));
    const number = Number(answer.dataset.chosen || 0);
    const content = JSON.parse(answer.dataset.pts)[number];
    save(number ? `${name}_face${number + 1}.pts` : `${name}.pts`, text(content, 'text/plain'));
  }

  document.addEventListener('click', event => {
    const toggle = event.target.closest('[data-toggle]');
    if (toggle) {
      const name = toggle.dataset.toggle;
      show.has(name) ? show.delete(name) : show.add(name);
      return apply();
    }
    const answer = event.target.closest('.answer');
    if (!answer) return;
    const file = event.target.closest('[data-download]');
    if (file) return void download(answer, file.dataset.download);
    const face = event.target.closest('tr[data-face], g.face');
    if (face && answer.querySelector('.crop')) choose(answer, face.dataset.face);
  });

  document.addEventListener('keydown', event => {
    if ((event.key === 'Enter' || event.key === ' ') && event.target.matches?.('.press')) {
      event.preventDefault();
      event.target.dispatchEvent(new MouseEvent('click', {bubbles: true}));
    }
  });

  let waiting = false;
  new MutationObserver(() => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; apply(); });
  }).observe(document.documentElement, {childList: true, subtree: true});
  apply();
})();
