<?php
// Subscribe durably as "dave": a message that cannot be processed is delivered again.
$subscription = [
    'topic' => 'orders',
    'client_id' => 'dave',
    'envelope' => true, // arguments are JSON with topic, sequence, attempt and payload
    'durable' => ['timeout' => 10, 'max_attempts' => 5], // then the message is parked
];
$client = new GearmanClient();
$client->addServer('localhost', 4730);
$client->setWarningCallback(function (GearmanTask $task) {
    fwrite(STDERR, $task->data() . "\n");
});
$client->setFailCallback(function () {
    exit(1);
});
$client->addTask('subscribe_fanout', json_encode($subscription));
$client->runTasks();

// Process one order. The first attempt fails, to show what follows.
function process(string $order, int $attempt): void
{
    if ($attempt === 1) {
        throw new RuntimeException('disk full');
    }
    echo "dave processed $order in attempt $attempt\n";
}

$worker = new GearmanWorker();
$worker->addServer('localhost', 4730);
$worker->addFunction('orders_dave', function (GearmanJob $job) {
    $message = json_decode($job->workload(), true);
    try {
        process($message['payload'], $message['attempt']);
    } catch (Exception $error) {
        $job->sendWarning($error->getMessage()); // the reason, which describe and parked show
        $job->setReturn(GEARMAN_WORK_FAIL); // deliver it again, after 2 seconds, then 3, 5, 9 ...
        return null;
    }
    return 'done'; // acknowledged: the next message may come
});
// work() says false, and warns, where the job failed: no reason to stop
while (@$worker->work() || $worker->returnCode() == GEARMAN_WORK_FAIL) {
}
