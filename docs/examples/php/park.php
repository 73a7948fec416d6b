<?php
// Subscribe durably as "dave", and say of a message that failed what is to come of it.
$client = new GearmanClient();
$client->addServer('localhost', 4730);
$client->setWarningCallback(function (GearmanTask $task) {
    fwrite(STDERR, $task->data() . "\n");
});
$client->setFailCallback(function () {
    exit(1);
});
$subscription = ['topic' => 'orders', 'client_id' => 'dave', 'durable' => true];
$client->addTask('subscribe_fanout', json_encode($subscription));
$client->runTasks();

// Process one order; return what to ask for where it fails, null where it is processed.
function process(string $order, bool $isFirst): ?string
{
    if (!ctype_print($order)) {
        return 'park: not an order'; // no attempt would go better
    }
    if ($isFirst) {
        return 'retry_after: 1'; // the warehouse says so
    }
    echo "dave processed $order\n";
    return null;
}

$isFirst = true;
$worker = new GearmanWorker();
$worker->addServer('localhost', 4730);
$worker->addFunction('orders_dave', function (GearmanJob $job) use (&$isFirst) {
    $asked = process($job->workload(), $isFirst);
    if ($asked === null) {
        return 'done'; // acknowledged: the next message may come
    }
    $isFirst = false;
    $job->sendWarning($asked); // before the failure
    $job->setReturn(GEARMAN_WORK_FAIL);
    return null;
});
// work() says false, and warns, where the job failed: no reason to stop
while (@$worker->work() || $worker->returnCode() == GEARMAN_WORK_FAIL) {
}
