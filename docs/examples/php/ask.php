<?php
// Ask all hosts that subscribed to "news", and print what each answered within 5 seconds.
$client = new GearmanClient();
$client->addServer('localhost', 4730);
$client->setCompleteCallback(function (GearmanTask $task) {
    $receipt = json_decode($task->data(), true);
    foreach ($receipt['results'] as $host => $answer) {
        echo "$host: $answer\n";
    }
    foreach ($receipt['failed'] as $host => $reason) {
        echo "$host failed: $reason\n";
    }
    foreach ($receipt['pending'] as $host) {
        echo "$host did not answer\n";
    }
});
$client->setWarningCallback(function (GearmanTask $task) {
    fwrite(STDERR, $task->data() . "\n");
});
$client->setFailCallback(function () {
    exit(1);
});
$question = ['topic' => 'news', 'payload' => 'who is there?', 'receipt' => true, 'timeout' => 5];
$client->addTask('fanout', json_encode($question));
$client->runTasks();
