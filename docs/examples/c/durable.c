/* Subscribe durably as "erin": a message that cannot be processed is delivered again.
   cc durable.c -lgearman -o durable */
#include <libgearman/gearman.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static gearman_return_t refused(gearman_task_st *task)
{
    fprintf(stderr, "%.*s\n", (int)gearman_task_data_size(task), (char *)gearman_task_data(task));
    exit(1);
}

/* Process one order; return what went wrong. The first attempt fails, to show what follows. */
static const char *process(const char *order, size_t size)
{
    static int attempts;

    if (++attempts == 1)
        return "disk full";
    printf("erin processed %.*s in attempt %d\n", (int)size, order, attempts);
    fflush(stdout);
    return NULL;
}

static gearman_return_t receive(gearman_job_st *job, void *context)
{
    const char *error = process(gearman_job_workload(job), gearman_job_workload_size(job));

    (void)context;
    if (error) {
        gearman_job_send_warning(job, error, strlen(error)); /* which describe and parked show */
        return GEARMAN_FAIL; /* deliver it again, after 2 seconds, then 3, 5, 9 ... */
    }
    return GEARMAN_SUCCESS; /* acknowledged: the next message may come */
}

int main(void)
{
    /* after five attempts the message is parked */
    static const char subscription[] =
        "{\"topic\": \"orders\", \"client_id\": \"erin\","
        " \"durable\": {\"timeout\": 10, \"max_attempts\": 5}}";
    gearman_return_t result;
    gearman_client_st *client = gearman_client_create(NULL);
    gearman_worker_st *worker = gearman_worker_create(NULL);

    gearman_client_add_server(client, "localhost", 4730);
    gearman_client_set_warning_fn(client, refused);
    gearman_client_add_task(client, NULL, NULL, "subscribe_fanout", NULL, subscription,
                            sizeof subscription - 1, &result);
    if (gearman_failed(gearman_client_run_tasks(client))) {
        fprintf(stderr, "%s\n", gearman_client_error(client));
        return 1;
    }
    gearman_client_free(client);

    gearman_worker_add_server(worker, "localhost", 4730);
    gearman_worker_define_function(worker, "orders_erin", 11, gearman_function_create(receive), 0,
                                   NULL);
    for (;;) {
        result = gearman_worker_work(worker);
        if (gearman_failed(result) && result != GEARMAN_WORK_FAIL)
            break;
    }
    fprintf(stderr, "%s\n", gearman_worker_error(worker));
    return 1;
}
