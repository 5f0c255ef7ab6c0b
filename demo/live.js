// The camera: a frame, its answer, the next frame. Runs inside Gradio, which gives `element` and `server`.
const part = selector => element.querySelector(selector);
const stage = part('.stage'), canvas = part('canvas'), over = part('.over'), hint = part('.hint');
const video = Object.assign(document.createElement('video'), {muted: true, playsInline: true});
const grabbed = document.createElement('canvas');
const LONGEST_S = 300, MOST_FRAMES = 20000, SIDE_PX = 640;
let starting = false, running = false, recording = false, frames = [], token = '', times = [], latencies = [], stream = null, began = 0;

const tell = text => { part('[data-told]').textContent = text; };
const figure = (name, text) => { part(`[data-figure="${name}"]`).textContent = text; };

function settings() {
  const filter = {};
  for (const slider of element.querySelectorAll('input[type=range]')) filter[slider.name] = Number(slider.value);
  return {filter, steady: part('[name=steady]').checked};
}

async function start() {
  if (starting || running) return;
  starting = true;
  try {
    await startCamera();
  } finally {
    starting = false;
  }
}

async function startCamera() {
  tell('');
  if (!navigator.mediaDevices) return tell('This browser gives cameras to pages of https:// or localhost only.');
  try {
    stream = await navigator.mediaDevices.getUserMedia({video: {width: {ideal: 640}, height: {ideal: 480}, facingMode: 'user'}});
    video.srcObject = stream;
    await video.play();
  } catch (error) {
    release();
    return tell(error.name === 'NotAllowedError'
      ? 'The camera was not allowed; allow it beside the address of this page, and start again.'
      : error.name === 'NotFoundError' ? 'No camera was found; plug one in, and start again.'
      : 'The camera cannot be used; close what else uses it, and start again.');
  }
  running = true;
  began = performance.now();
  token = crypto.randomUUID ? crypto.randomUUID() : '10000000-1000-4000-8000-100000000000'.replace(/[018]/g, c =>
    (c ^ crypto.getRandomValues(new Uint8Array(1))[0] & 15 >> c / 4).toString(16));
  times = []; latencies = [];
  hint.hidden = true;
  for (const name of ['stop', 'record']) part(`[data-live=${name}]`).disabled = false;
  loop(token);
}

function release() {
  stream?.getTracks().forEach(track => track.stop());
  stream = null;
}

function stop(text = '') {
  running = false;
  if (recording) record();
  release();
  hint.hidden = false;
  for (const name of ['stop', 'record']) part(`[data-live=${name}]`).disabled = true;
  for (const name of ['fps', 'latency', 'faces', 'pose']) figure(name, '–');
  tell(text);
}

function record() {
  recording = !recording;
  if (recording) frames = [];
  const button = part('[data-live=record]');
  button.setAttribute('aria-pressed', String(recording));
  button.textContent = recording ? 'Stop recording' : 'Record';
  part('[data-saves]').hidden = recording || !frames.length;
  tell(recording ? 'Recording the landmarks.' : frames.length ? `${frames.length} frames recorded.` : 'No frame was recorded.');
}

// Of one start: where the camera was stopped and started again while a frame was out, its answer is none of ours.
async function loop(mine) {
  const isOver = () => !running || token !== mine;
  while (!isOver()) {
    if (!element.isConnected || !stage.offsetParent || document.hidden) return stop('The camera was stopped, since its page was left.');
    if (performance.now() - began > 1000 * LONGEST_S) return stop('The camera was stopped after five minutes; start it again if you like.');
    const scale = Math.min(1, SIDE_PX / Math.max(video.videoWidth, video.videoHeight));
    const width = grabbed.width = Math.round(video.videoWidth * scale), height = grabbed.height = Math.round(video.videoHeight * scale);
    grabbed.getContext('2d').drawImage(video, 0, 0, width, height);
    const sent = performance.now(), isRecorded = recording;
    let reply;
    try {
      reply = await server.frame({image: grabbed.toDataURL('image/jpeg', 0.85), token, record: isRecorded, ...settings()});
    } catch (error) {
      reply = null;
    }
    if (isOver()) return;
    if (!reply || reply.error) return stop(reply?.error || 'The server does not answer; start again in a moment.');
    draw(reply, width, height, sent, isRecorded);
    await new Promise(done => requestAnimationFrame(done));
  }
}

function draw(reply, width, height, sent, isRecorded) {
  if (canvas.width !== width || canvas.height !== height) {
    Object.assign(canvas, {width, height});
    stage.style.aspectRatio = `${width}/${height}`;
    stage.style.setProperty('--ratio', width / height);
  }
  canvas.getContext('2d').drawImage(grabbed, 0, 0);
  over.innerHTML = reply.svg;
  stage.classList.toggle('mirrored', part('[name=mirror]').checked);
  const now = performance.now();
  times = [...times.filter(time => now - time < 2000), now];
  latencies = [...latencies.slice(-19), now - sent];
  if (times.length > 1) figure('fps', (1000 * (times.length - 1) / (now - times[0])).toFixed(1));
  figure('latency', Math.round(latencies.reduce((sum, value) => sum + value, 0) / latencies.length));
  figure('faces', reply.faces.length);
  const pose = reply.faces[0]?.pose;
  figure('pose', pose ? ['yaw_deg', 'pitch_deg', 'roll_deg'].map(name => `${Math.round(pose[name])}°`.replace('-', '−')).join(' ') : '–');
  if (recording && isRecorded && frames.length < MOST_FRAMES) frames.push({time_s: Number(((sent - began) / 1000).toFixed(3)), width, height, faces: reply.faces});
}

function csv() {
  const most = Math.max(0, ...frames.flatMap(frame => frame.faces.map(face => face.landmarks?.length ?? 0)));
  const names = ['time_s', 'track_id', 'score', 'yaw_deg', 'pitch_deg', 'roll_deg', 'right_eye', 'left_eye', 'mouth'];
  for (let point = 0; point < most; point++) names.push(`x${point}`, `y${point}`);
  const rows = frames.flatMap(frame => frame.faces.map(face => [frame.time_s, face.track_id, face.score,
    face.pose?.yaw_deg, face.pose?.pitch_deg, face.pose?.roll_deg,
    face.openness?.right_eye, face.openness?.left_eye, face.openness?.mouth, ...(face.landmarks ?? []).flat()]));
  return [names, ...rows].map(row => row.map(cell => cell ?? '').join(',')).join('\n') + '\n';
}

const save = (name, content, type) => window.flmPage.save(name, new Blob([content], {type}));

element.addEventListener('click', event => {
  const what = event.target.closest('[data-live]')?.dataset.live;
  if (what === 'start') start();
  if (what === 'stop') stop();
  if (what === 'record') record();
  if (what === 'jsonl') save('track.jsonl', frames.map(frame => JSON.stringify(frame)).join('\n') + '\n', 'application/jsonl');
  if (what === 'csv') save('track.csv', csv(), 'text/csv');
});
element.addEventListener('input', event => {
  const output = event.target.closest('label')?.querySelector('output');
  if (output) output.textContent = event.target.value;
});
