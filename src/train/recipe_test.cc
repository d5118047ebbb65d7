#include "train/recipe.h"

#include <gtest/gtest.h>

#include "model/tensor_list.h"

namespace rorqual {
namespace {

// Totals: spec 1.1, counted from the configurations of DeepSeek-V3's code; of the dense model, from its shapes by hand:
// 2·102400·8192 + 8192 + 95·(2·8192·8192 + 2·1024·8192 + 3·22016·8192 + 2·8192). The MTP module: a block of
// 11,507,286,272 with its routing bias, eh_proj 2·7168², three norms of 7168.
TEST(Recipes, CountTheParametersOfPublishedModels) {
  const auto count = [](const std::string& name) {
    return TensorList(read_whole_recipe(find_recipe(name), {}).model).parameters();
  };
  EXPECT_EQ(count("v3-16b").total, 15'706'484'224);
  EXPECT_EQ(count("v3-236b").total, 235'741'434'880);
  const ParameterCount v3 = count("v3-671b");
  EXPECT_EQ(v3.total, 671'026'419'200);
  EXPECT_EQ(v3.mtp, 11'610'068'224);
  EXPECT_EQ(count("v3-236b").mtp, 0);
  EXPECT_EQ(count("deepseek-llm-67b").total, 67'425'001'472);
}

}  // namespace
}  // namespace rorqual
