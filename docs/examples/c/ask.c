/* Ask all hosts that subscribed to "news"; print the receipt, JSON with what each answered.
   cc ask.c -lgearman -o ask */
#include <libgearman/gearman.h>
#include <stdio.h>
#include <stdlib.h>

static gearman_return_t answered(gearman_task_st *task)
{
    printf("%.*s\n", (int)gearman_task_data_size(task), (char *)gearman_task_data(task));
    return GEARMAN_SUCCESS;
}

static gearman_return_t refused(gearman_task_st *task)
{
    fprintf(stderr, "%.*s\n", (int)gearman_task_data_size(task), (char *)gearman_task_data(task));
    exit(1);
}

int main(void)
{
    static const char question[] =
        "{\"topic\": \"news\", \"payload\": \"who is there?\", \"receipt\": true, \"timeout\": 5}";
    gearman_return_t result;
    gearman_client_st *client = gearman_client_create(NULL);

    gearman_client_add_server(client, "localhost", 4730);
    gearman_client_set_complete_fn(client, answered);
    gearman_client_set_warning_fn(client, refused);
    gearman_client_add_task(client, NULL, NULL, "fanout", NULL, question, sizeof question - 1,
                            &result);
    if (gearman_failed(gearman_client_run_tasks(client))) {
        fprintf(stderr, "%s\n", gearman_client_error(client));
        return 1;
    }
    gearman_client_free(client);
    return 0;
}
