// One request of a generation route on its way: its choices' engine requests, and the answer they become.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "serve/api_answer.h"
#include "serve/api_request.h"
#include "serve/http_server.h"
#include "serve/model_host.h"
#include "serve/serve_metrics.h"

namespace rorqual {

// Runs a task on the server's thread.
using PostTask = std::function<void(std::function<void()>)>;

struct GenerationJob {
  bool chat = false;
  GenerationOptions options;
  std::vector<std::vector<int32_t>> prompts;
  std::vector<std::string> echo;  // of each prompt; empty: none
  bool bos_added = false;         // the prompts' first token is no text of the client's
  bool tools = false;             // look for calls in the text
  std::string forced;             // what the prompt already holds of a call
  std::string forced_end;         // what ends that call where the text is its arguments alone; or empty
};

// Server's thread alone. Submits the job and answers through `exchange`, at once or in a stream; ends the engine's requests
// when the exchange ends. `metrics` outlives every task that `post` runs. Throws ApiError (400, 429) before anything is
// answered; nothing runs then.
void start_generation(GenerationJob job, const std::shared_ptr<ServedModel>& model, std::shared_ptr<HttpExchange> exchange,
                      const PostTask& post, ServeMetrics& metrics);

}  // namespace rorqual
