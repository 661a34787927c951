// pg-boss on PostgreSQL: jobs that start after a time. Its documentation, as followed here:
// - "Workers, work()": `batchSize` fetches many jobs at once, `burstWhenBatchFull` fetches on without a pause while
//   there is more, `pollingIntervalSeconds` at its least (0.5 s) for what is due at a time; `perJobResults` settles
//   each alone.
// - "Jobs, insert()": many in one statement.
// - "Queues": `heartbeatSeconds` (its least, 10 s) tells of a killed worker; found by the supervisor, every 10 s here
//   in place of every minute.
import { PgBoss } from "pg-boss";
import { post, postgresUrl, submit } from "./common.mjs";

const NAME = "calls";
const [verb, job] = process.argv.slice(2);
const supervise = verb === "worker";
const intervals = { superviseIntervalSeconds: 10, monitorIntervalSeconds: 10 };
const boss = new PgBoss({ connectionString: postgresUrl, max: 20, supervise, ...intervals });
boss.on("error", (error) => console.error(error));
await boss.start();

const timed = ({ data, dueMs }) => ({ data, startAfter: new Date(dueMs) });

if (verb === "setup") {
  await boss.createQueue(NAME, { retryLimit: 10, heartbeatSeconds: 10 });
  await boss.stop();
} else if (verb === "submit") {
  await submit(
    JSON.parse(job),
    ({ data, dueMs }) => boss.send(NAME, data, { startAfter: new Date(dueMs) }),
    (some) => boss.insert(NAME, some.map(timed)),
  );
  await boss.stop();
} else if (verb === "worker") {
  const settle = async ({ id, data }) => {
    try {
      await post(data);
      return { id, status: "completed" };
    } catch (error) {
      return { id, status: "failed", output: { message: String(error) } };
    }
  };
  const options = {
    batchSize: 100,
    burstWhenBatchFull: true,
    localConcurrency: 4,
    perJobResults: true,
    pollingIntervalSeconds: 0.5,
  };
  await boss.work(NAME, options, (jobs) => Promise.all(jobs.map(settle)));
}
