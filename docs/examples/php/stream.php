<?php
// Ask all hosts that subscribed to "news", and print each answer as it comes, for 5 seconds.
$client = new GearmanClient();
$client->addServer('localhost', 4730);
$client->setDataCallback(function (GearmanTask $task) {
    $answer = json_decode($task->data(), true);
    if (isset($answer['error'])) {
        echo "{$answer['client_id']} failed: {$answer['error']}\n";
    } else {
        echo "{$answer['client_id']}: {$answer['result']}\n";
    }
});
$client->setCompleteCallback(function (GearmanTask $task) {
    echo $task->data() . " answered\n";
});
$client->setWarningCallback(function (GearmanTask $task) {
    fwrite(STDERR, $task->data() . "\n"); // who failed, or did not answer
});
$client->setFailCallback(function () {
    exit(1);
});
$question = ['topic' => 'news', 'payload' => 'who is there?', 'stream' => true, 'timeout' => 5];
$client->addTask('fanout', json_encode($question));
$client->runTasks();
