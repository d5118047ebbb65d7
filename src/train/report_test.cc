#include "train/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "train/run_history.h"

namespace rorqual {
namespace {

using Json = nlohmann::ordered_json;
using testing::HasSubstr;
using testing::Not;
namespace fs = std::filesystem;

// A model of two layers, the second with experts, and one MTP module: two MoE blocks.
constexpr const char* kRecipe = R"(precision = "bf16"
[model]
vocab_size = 64
hidden_size = 16
intermediate_size = 32
moe_intermediate_size = 8
num_hidden_layers = 2
num_attention_heads = 2
q_lora_rank = 8
kv_lora_rank = 8
qk_nope_head_dim = 8
qk_rope_head_dim = 4
v_head_dim = 8
n_routed_experts = 4
n_shared_experts = 1
num_experts_per_tok = 2
n_group = 2
topk_group = 1
first_k_dense_replace = 1
num_nextn_predict_layers = 1
[tokenizer]
path = "/home/somebody/tokenizer"
)";

class ReportTest : public testing::Test {
 protected:
  ReportTest() {
    fs::remove_all(run_);
    fs::create_directories(run_);
    write("recipe.toml", kRecipe);
  }
  ~ReportTest() override { fs::remove_all(run_); }

  void write(const std::string& name, const std::string& text) { write_file_atomically(run_ / name, text); }
  // Lines as the trainer writes them, from step 1.
  void write_steps(int64_t steps) {
    std::string lines;
    for (int64_t i = 1; i <= steps; ++i) lines += line(i).dump() + "\n";
    write("metrics.jsonl", lines);
  }
  static Json line(int64_t step) {
    Json j;
    j["step"] = step;
    j["tokens"] = step * 128;
    j["loss"] = 3.0 + 5.0 / static_cast<double>(step);
    j["mtp_loss"] = 4.0;
    j["balance_loss"] = 1e-4;
    j["lr"] = 1e-3;
    j["grad_norm"] = 0.5;
    j["load_max_over_mean"] = {1.5, 1.25};
    j["bias_range"] = {-0.01, 0.02};
    j["tokens_per_s"] = 1000.0;
    j["step_ms"] = 128.0;
    if (step % 100 == 0) j["heldout_loss"] = 3.5;
    return j;
  }
  std::string page() {
    write_report(run_, run_ / "report.html");
    return read_file(run_ / "report.html");
  }
  static Json data(const std::string& page) {
    const std::string open = R"(<script type="application/json" id="data">)";
    const size_t begin = page.find(open) + open.size();
    return Json::parse(page.substr(begin, page.find("</script>", begin) - begin));
  }
  std::string error() {
    try {
      page();
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  }

  const fs::path run_ = fs::path(testing::TempDir()) / fmt::format("rorqual_report_test_{}", getpid());
};

TEST_F(ReportTest, ARunBeforeItsFirstStepHasAPage) {
  EXPECT_THAT(page(), HasSubstr("The run has no steps yet."));
  EXPECT_EQ(data(page())["steps"], 0);
  write_steps(0);
  EXPECT_TRUE(data(page())["series"].empty());
}

TEST_F(ReportTest, FewStepsAreShownAsTheyAre) {
  for (const int64_t steps : {1, 2}) {
    write_steps(steps);
    const Json d = data(page());
    EXPECT_EQ(d["steps"], steps);
    EXPECT_EQ(d["series"]["loss"]["step"].size(), steps);
    EXPECT_EQ(d["series"]["loss"]["value"][0], 8.0);
    EXPECT_FALSE(d["series"].contains("loss_smooth"));
    EXPECT_FALSE(d["series"].contains("heldout_loss"));
    EXPECT_EQ(d["load"]["blocks"], Json::array({"layer 1", "MTP 1"}));
    EXPECT_EQ(d["load"]["mean"][0].size(), steps);
  }
}

TEST_F(ReportTest, ALongRunStaysSmall) {
  write_steps(5000);
  const std::string html = page();
  // 11 series of 1000 points of at most 20 bytes, and as much again for everything else.
  EXPECT_LT(html.size(), 440'000u);
  const Json d = data(html);
  EXPECT_EQ(d["series"]["loss"]["value"].size(), d["series"]["loss"]["step"].size());
  EXPECT_LE(d["series"]["loss"]["value"].size(), 1000u);
  EXPECT_EQ(d["series"]["loss"]["value"][0], 8.0);  // the largest of all
  EXPECT_EQ(d["series"]["heldout_loss"]["value"].size(), 50u);
  EXPECT_EQ(d["load"]["mean"][1][0], 1.25);
  EXPECT_THAT(html, HasSubstr("Held-out bits</dt><dd>5.0494"));  // 3.5 / ln 2
}

TEST_F(ReportTest, NeedsNothingButItself) {
  write_steps(30);
  const std::string html = page();
  for (const char* reference : {"http://", "https://", "src=", "@import", "url(\"", "/home/"})
    EXPECT_THAT(html, Not(HasSubstr(reference)));
  EXPECT_THAT(html, HasSubstr("path = 'tokenizer'"));
  EXPECT_THAT(html, HasSubstr("<noscript>"));
}

TEST_F(ReportTest, StepsWithoutFiniteValuesAreGaps) {
  Json bad = line(2);
  bad["loss"] = bad["grad_norm"] = nullptr;
  bad["bias_range"] = {nullptr, nullptr};
  bad["skipped"] = true;
  write("metrics.jsonl", line(1).dump() + "\n" + bad.dump() + "\n");
  const std::string html = page();
  EXPECT_THAT(html, HasSubstr("not finite"));
  EXPECT_TRUE(data(html)["series"]["loss"]["value"][1].is_null());
  EXPECT_TRUE(data(html)["series"]["bias_low"]["value"][1].is_null());
  EXPECT_EQ(data(html)["skipped"], Json::array({2}));
}

TEST_F(ReportTest, TextCannotBecomeMarkup) {
  write_steps(1);
  Json sample;
  sample["step"] = 1;
  sample["prompt"] = "<!-- {{data}} ";
  sample["text"] = "</script><script>alert(1)</script> & \"";
  write("samples.jsonl", sample.dump() + "\n");
  const std::string html = page();
  EXPECT_THAT(html, Not(HasSubstr("<script>alert")));
  EXPECT_THAT(html, HasSubstr("<b>&lt;!-- {{data}} </b>&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;"));
}

TEST_F(ReportTest, DamageIsNamedByFileAndLine) {
  const std::string good = line(1).dump() + "\n";
  write("metrics.jsonl", good + "{\"step\": 2, \"tok\n");
  EXPECT_THAT(error(), HasSubstr("metrics.jsonl:2: "));
  write("metrics.jsonl", good + "{\"step\":2,\"tokens\":1,\"loss\":\"low\"}\n");
  EXPECT_THAT(error(), HasSubstr("metrics.jsonl:2: \"loss\""));
  write("metrics.jsonl", good + good);
  EXPECT_THAT(error(), HasSubstr("metrics.jsonl:2: step 1"));
  write("metrics.jsonl", good + "{\"step\":2,\"tokens\":1,\"load_max_over_mean\":[1]}\n");
  EXPECT_THAT(error(), HasSubstr("metrics.jsonl:2: \"load_max_over_mean\""));
  write("metrics.jsonl", good);
  write("samples.jsonl", "{\"step\":1,\"prompt\":\"a\"}\n");
  EXPECT_THAT(error(), HasSubstr("samples.jsonl:1: \"text\""));
  EXPECT_FALSE(fs::exists(run_ / "report.html"));
  write("samples.jsonl", "");
  write("metrics.jsonl", good + "{\"step\": 2, \"tok");  // torn
  EXPECT_EQ(data(page())["steps"], 1);
  fs::remove(run_ / "recipe.toml");
  EXPECT_THAT(error(), HasSubstr("is no run directory"));
}

TEST(RunHistoryTest, DownsamplingKeepsPeaks) {
  Series s;
  for (int i = 0; i < 10000; ++i) s.add(i, i == 7777 ? 50.0 : i == 1234 ? -50.0 : i % 10 == 0 ? NAN : 1.0);
  const Series small = downsample(s, 100);
  EXPECT_LE(small.size(), 100u);
  EXPECT_THAT(small.value, testing::Contains(50.0));
  EXPECT_THAT(small.value, testing::Contains(-50.0));
  EXPECT_TRUE(std::is_sorted(small.step.begin(), small.step.end()));
  for (const double v : small.value) EXPECT_TRUE(std::isfinite(v));
}

TEST(RunHistoryTest, SmoothingIsCentred) {
  Series s;
  for (const double v : {1.0, 2.0, 6.0, static_cast<double>(NAN), 4.0}) s.add(static_cast<double>(s.size()), v);
  const Series mean = smooth(s, 1);
  EXPECT_EQ(mean.value[0], 1.0);
  EXPECT_EQ(mean.value[1], 3.0);
  EXPECT_EQ(mean.value[2], 4.0);
  EXPECT_EQ(mean.value[3], 5.0);
  EXPECT_EQ(mean.value[4], 4.0);
}

}  // namespace
}  // namespace rorqual
