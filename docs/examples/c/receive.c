/* Subscribe as "erin", then receive until stopped.
   cc receive.c -lgearman -o receive */
#include <libgearman/gearman.h>
#include <stdio.h>
#include <stdlib.h>

static gearman_return_t refused(gearman_task_st *task)
{
    fprintf(stderr, "%.*s\n", (int)gearman_task_data_size(task), (char *)gearman_task_data(task));
    exit(1);
}

static gearman_return_t receive(gearman_job_st *job, void *context)
{
    (void)context;
    printf("erin received %.*s\n", (int)gearman_job_workload_size(job),
           (const char *)gearman_job_workload(job));
    fflush(stdout);
    gearman_job_send_data(job, "thanks from erin", 16);
    return GEARMAN_SUCCESS;
}

int main(void)
{
    static const char subscription[] = "{\"topic\": \"news\", \"client_id\": \"erin\"}";
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
    gearman_worker_define_function(worker, "news_erin", 9, gearman_function_create(receive), 0, NULL);
    while (gearman_success(gearman_worker_work(worker)))
        ;
    fprintf(stderr, "%s\n", gearman_worker_error(worker));
    return 1;
}
