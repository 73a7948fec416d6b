<?php
// Publish one message; print how many copies were queued.
$client = new GearmanClient();
$client->addServer('localhost', 4730);
$client->setCompleteCallback(function (GearmanTask $task) {
    echo 'copies: ', $task->data(), "\n";
});
$client->setWarningCallback(function (GearmanTask $task) {
    fwrite(STDERR, $task->data() . "\n");
});
$client->setFailCallback(function () {
    exit(1);
});
$message = ['topic' => 'news', 'payload' => 'hello', 'background' => true];
$client->addTask('fanout', json_encode($message));
$client->runTasks();
