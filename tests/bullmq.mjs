// The peer to beat on the same machine, in the same run: BullMQ on the Redis at REDIS_PORT.
//   mkdir bullmq && cd bullmq && npm init -y && npm i bullmq ioredis && cp THIS FILE bench.mjs
//   REDIS_PORT=7777 node bench.mjs [jobs=20000] [concurrency=32]      -> one JSON object
// Its jobs are unsigned no-ops, run in the worker's own process, and its client talks to Redis directly.
import { Queue, Worker, QueueEvents, FlowProducer } from 'bullmq';
const connection = { host: '127.0.0.1', port: +(process.env.REDIS_PORT ?? 6379), maxRetriesPerRequest: null };
const N = +(process.argv[2] ?? 20000), concurrency = +(process.argv[3] ?? 32), out = { peer: 'bullmq', jobs: N, concurrency };
const ms = t => Number(process.hrtime.bigint() - t) / 1e6, now = () => process.hrtime.bigint();
const tag = process.pid + '-' + Date.now(), noop = async () => 1;
const drain = name => new Promise(done => { let n = 0; new Worker(name, noop, { connection, concurrency }).on('completed', () => { if (++n === N) done(); }); });
{ // submit everything, then process everything
  const q = new Queue('a' + tag, { connection }); await q.waitUntilReady();
  let t = now(); for (let i = 0; i < N; i += 500) await q.addBulk(Array.from({ length: 500 }, (_, k) => ({ name: 'x', data: { i: i + k } })));
  out.submit_per_s = Math.round(N / ms(t) * 1e3);
  t = now(); await drain(q.name); out.process_per_s = Math.round(N / ms(t) * 1e3);
}
{ // submit in batches of 50 while a worker processes
  const q = new Queue('b' + tag, { connection }); const t = now(), done = drain(q.name);
  for (let i = 0; i < N; i += 50) await q.addBulk(Array.from({ length: 50 }, (_, k) => ({ name: 'x', data: { i: i + k } })));
  await done; out.end_to_end_per_s = Math.round(N / ms(t) * 1e3);
}
{ // one at a time: add, wait until finished
  const q = new Queue('c' + tag, { connection }), ev = new QueueEvents(q.name, { connection }), w = new Worker(q.name, noop, { connection });
  await ev.waitUntilReady(); await w.waitUntilReady(); const lat = [];
  for (let i = 0; i < 300; i++) { const t = now(); await (await q.add('x', {})).waitUntilFinished(ev); lat.push(ms(t)); }
  lat.sort((a, b) => a - b); out.latency_ms_p50 = +lat[150].toFixed(2); out.latency_ms_p99 = +lat[296].toFixed(2);
}
{ // fan-out, fan-in: 1 parent waiting for 1000 children
  const name = 'd' + tag, ev = new QueueEvents(name, { connection }); await ev.waitUntilReady(); new Worker(name, noop, { connection, concurrency });
  const t = now(), tree = await new FlowProducer({ connection }).add({ name: 'p', queueName: name, children: Array.from({ length: 1000 }, () => ({ name: 'c', queueName: name })) });
  await tree.job.waitUntilFinished(ev); out.fan_1000_ms = Math.round(ms(t));
}
console.log(JSON.stringify(out)); process.exit(0);
