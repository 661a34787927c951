// BullMQ on Redis: delayed jobs. Its documentation, as followed here:
// - "Guide, Workers, Concurrency": 100 to 300 for what waits for the network. One process: in a trial two cost half
//   as much CPU again for each job.
// - "Going to production": Redis with an append-only file and without eviction, `maxRetriesPerRequest: null` for
//   workers, finished jobs removed.
// - "Guide, Jobs, Stalled": the jobs of a killed worker are found within 30 s and run again; defaults.
// - "Guide, Queues, Adding jobs in bulk": `addBulk`.
import { Queue, Worker } from "bullmq";
import { Redis } from "ioredis";
import { post, redisUrl, submit } from "./common.mjs";

const NAME = "calls";
const [verb, job] = process.argv.slice(2);
const connection = new Redis(redisUrl, { maxRetriesPerRequest: null });

function options(dueMs) {
  const timestamp = Date.now();
  return { timestamp, delay: Math.max(0, dueMs - timestamp), removeOnComplete: true };
}

if (verb === "submit") {
  const queue = new Queue(NAME, { connection });
  await queue.waitUntilReady();
  await submit(
    JSON.parse(job),
    ({ data, dueMs }) => queue.add("call", data, options(dueMs)),
    (some) => queue.addBulk(some.map(({ data, dueMs }) => ({ name: "call", data, opts: options(dueMs) }))),
  );
  await queue.close();
  connection.disconnect();
} else if (verb === "worker") {
  const worker = new Worker(NAME, (each) => post(each.data), { connection, concurrency: 200 });
  worker.on("error", (error) => console.error(error));
}
