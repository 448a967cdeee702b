#include <cstdio>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

#include <tapecache/tapecache.h>

using namespace tapecache;

int main() {
  const models::Builder builder(/*seed=*/5);
  const models::Linear layer(builder, 256, 256, models::Init::normal(0.1));
  const Tensor x = Tensor::full({512, 256}, 0.5);
  const auto parents = layer(x).value().to_vector<float>();  // the parent's threads have started

  const pid_t child = fork();
  if (child == 0) {
    set_thread_count(2);  // the child makes threads of its own
    const bool equal = layer(x).value().to_vector<float>() == parents;
    _exit(equal ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  std::printf("a forked child computes the same: %s\n", WIFEXITED(status) && WEXITSTATUS(status) == 0 ? "yes" : "no");
  std::printf("and so does the parent: %s\n", layer(x).value().to_vector<float>() == parents ? "yes" : "no");
}
