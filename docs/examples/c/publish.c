/* Publish one message; print how many copies were queued.
   cc publish.c -lgearman -o publish */
#include <libgearman/gearman.h>
#include <stdio.h>
#include <stdlib.h>

static gearman_return_t accepted(gearman_task_st *task)
{
    printf("copies: %.*s\n", (int)gearman_task_data_size(task), (char *)gearman_task_data(task));
    return GEARMAN_SUCCESS;
}

static gearman_return_t refused(gearman_task_st *task)
{
    fprintf(stderr, "%.*s\n", (int)gearman_task_data_size(task), (char *)gearman_task_data(task));
    exit(1);
}

int main(void)
{
    static const char message[] =
        "{\"topic\": \"news\", \"payload\": \"hello\", \"background\": true}";
    gearman_return_t result;
    gearman_client_st *client = gearman_client_create(NULL);

    gearman_client_add_server(client, "localhost", 4730);
    gearman_client_set_complete_fn(client, accepted);
    gearman_client_set_warning_fn(client, refused);
    gearman_client_add_task(client, NULL, NULL, "fanout", NULL, message, sizeof message - 1, &result);
    if (gearman_failed(gearman_client_run_tasks(client))) {
        fprintf(stderr, "%s\n", gearman_client_error(client));
        return 1;
    }
    gearman_client_free(client);
    return 0;
}
