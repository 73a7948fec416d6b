<?php
// Subscribe as "dave", then receive until stopped.
$client = new GearmanClient();
$client->addServer('localhost', 4730);
$client->setWarningCallback(function (GearmanTask $task) {
    fwrite(STDERR, $task->data() . "\n");
});
$client->setFailCallback(function () {
    exit(1);
});
$client->addTask('subscribe_fanout', json_encode(['topic' => 'news', 'client_id' => 'dave']));
$client->runTasks();

$worker = new GearmanWorker();
$worker->addServer('localhost', 4730);
$worker->addFunction('news_dave', function (GearmanJob $job) {
    echo 'dave received ', $job->workload(), "\n";
    return 'thanks from dave';
});
while ($worker->work()) {
}
