// graphile-worker on PostgreSQL: jobs with `run_at`. Its documentation, as followed here:
// - "Performance" (worker.graphile.org/docs/performance): 24 jobs at once, a pool of 25, batching by `localQueue:
//   {size: 500}` and `completeJobBatchDelay: 0`, more processes for more cores.
// - "Configuration" (docs/config): jobs in the future are found by polling, at `pollInterval`: 0.1 s in place of 2 s.
// - "addJobs" (docs/library/add-jobs): many in one statement.
// - NO_LOG_SUCCESS in its environment: no line of log for each job.
// - "Admin functions" (docs/admin-functions): the jobs of a killed worker stay locked for 4 hours, or until
//   `forceUnlockWorkers` is called, which `recover` does.
import { makeWorkerUtils, run } from "graphile-worker";
import pg from "pg";
import { post, postgresUrl, submit } from "./common.mjs";

const [verb, job] = process.argv.slice(2);
const preset = {
  worker: {
    connectionString: postgresUrl,
    concurrentJobs: 24,
    maxPoolSize: 25,
    pollInterval: 100,
    localQueue: { size: 500 },
    completeJobBatchDelay: 0,
    failJobBatchDelay: 0,
  },
};

async function withUtils(use) {
  const utils = await makeWorkerUtils({ preset });
  await use(utils);
  await utils.release();
}

// Of every worker that holds a job, asked while none runs.
async function lockedBy() {
  const client = new pg.Client(postgresUrl);
  await client.connect();
  const held = "SELECT DISTINCT locked_by FROM graphile_worker._private_jobs WHERE locked_by IS NOT NULL";
  const { rows } = await client.query(held);
  await client.end();
  return rows.map((row) => row.locked_by);
}

const spec = ({ data, dueMs }) => ({ identifier: "call", payload: data, runAt: new Date(dueMs) });

if (verb === "setup") {
  await withUtils((utils) => utils.migrate());
} else if (verb === "submit") {
  await withUtils((utils) =>
    submit(
      JSON.parse(job),
      ({ data, dueMs }) => utils.addJob("call", data, { runAt: new Date(dueMs) }),
      (some) => utils.addJobs(some.map(spec)),
    ),
  );
} else if (verb === "recover") {
  const workers = await lockedBy();
  await withUtils((utils) => utils.forceUnlockWorkers(workers));
} else if (verb === "worker") {
  const runner = await run({ preset, taskList: { call: (payload) => post(payload) } });
  await runner.promise;
}
