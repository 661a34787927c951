// What every JavaScript peer does alike: the call it makes, and how it is given the tasks of one measurement.
// The client is undici's pool, the leanest that is in common use; Node's own fetch is built on it.
import { Pool } from "undici";

export const amqpUrl = process.env.BENCH_AMQP_URL;
export const postgresUrl = process.env.BENCH_POSTGRES_URL;
export const redisUrl = process.env.BENCH_REDIS_URL;
const sink = new URL(process.env.BENCH_SINK_URL);
const AT_ONCE = 64; // submissions under way at once; Carillon is asked over as many connections
const BULK = 1000; // tasks in one bulk submission; as in Carillon's batches
const pool = new Pool(sink.origin, { connections: 128, headersTimeout: 10_000, bodyTimeout: 10_000 });

export async function post({ id, body }) {
  const headers = { "webhook-id": id, "content-type": "application/json" };
  const answer = await pool.request({ path: sink.pathname, method: "POST", headers, body: JSON.stringify(body) });
  await answer.body.dump();
  if (answer.statusCode !== 204) throw new Error(`the sink answered ${answer.statusCode}`);
}

// The tasks of one measurement, each with what is stored of it and when it is due in ms since 1970.
export function tasks(job) {
  return Array.from({ length: job.tasks }, (_, number) => ({
    data: { id: `${job.prefix}-${number}`, body: { number, text: "x".repeat(64) } },
    dueMs: job.first_ms + Math.floor(number * job.step_ms),
  }));
}

// `submit '<json>'` one by one or in bulk, as the job says.
export async function submit(job, one, bulk) {
  const all = tasks(job);
  const began = performance.now();
  if (job.bulk) {
    for (let from = 0; from < all.length; from += BULK) await bulk(all.slice(from, from + BULK));
  } else {
    let next = 0;
    const worker = async () => {
      while (next < all.length) await one(all[next++]);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
  }
  console.log(JSON.stringify({ seconds: (performance.now() - began) / 1000 }));
}
