#include "inc/pipeline.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>

#include "inc/embedder.h"

namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Progress: a line that is drawn over on a terminal, else a plain line every ten seconds.
class Progress {
 public:
  void Show(size_t done, size_t all, double seconds) {
    const bool terminal = isatty(STDERR_FILENO) != 0;
    if (terminal || seconds >= next_) {
      next_ = seconds + 10;
      std::fprintf(stderr, "%s%zu of %zu images, %.1f images/s%s", terminal ? "\r" : "", done, all,
                   static_cast<double>(done) / seconds, terminal && done < all ? " " : "\n");
    }
  }

 private:
  double next_ = 10;
};

// What the workers share; everything but the reader under one lock.
class Work {
 public:
  Work(const Loader &load, const std::vector<Image> &images, const Embedder &shape, size_t num_workers)
      : images_(images), length_(shape.feature_floats()),
        reader_(load, images, shape.batch_size(), shape.image_floats(), num_workers + 1) {
    outcome_.features.resize(images.size() * length_);
  }

  // What one worker does until all is done or one has failed.
  void Do(Embedder *embedder) {
    try {
      Batch batch;
      while (reader_.Next(&batch)) {
        const auto call = Clock::now();
        const float *features = embedder->Embed(batch.data);
        Keep(features, batch, 1e3 * Seconds(call));
      }
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex_);
      failure_ = failure_ ? failure_ : std::current_exception();
      reader_.Abandon();
    }
  }

  Outcome Finish() {
    if (failure_) {
      std::rethrow_exception(failure_);
    }
    outcome_.seconds = Seconds(start_);
    return std::move(outcome_);
  }

 private:
  void Keep(const float *features, const Batch &batch, double milliseconds) {
    for (size_t i = 0; i < batch.count * length_; ++i) {
      if (!std::isfinite(features[i])) {
        throw Error(images_[batch.first + i / length_].id + ": its feature is not finite");
      }
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    std::copy_n(features, batch.count * length_,
                outcome_.features.begin() + static_cast<std::ptrdiff_t>(batch.first * length_));
    outcome_.milliseconds.push_back(milliseconds);
    done_ += batch.count;
    progress_.Show(done_, images_.size(), Seconds(start_));
  }

  const std::vector<Image> &images_;
  const size_t length_;
  const Clock::time_point start_ = Clock::now();
  Reader reader_;
  std::mutex mutex_;
  Outcome outcome_;
  Progress progress_;
  size_t done_ = 0;
  std::exception_ptr failure_;
};

// Have every model embed the first images as it embeds one alone; the reader and its batches are gone after that.
void CheckAll(const std::vector<std::unique_ptr<Embedder>> &embedders, const Loader &load,
              const std::vector<Image> &images) {
  Reader reader(load, images, embedders[0]->batch_size(), embedders[0]->image_floats(), 1);
  Batch batch;
  reader.Next(&batch);
  for (const auto &embedder : embedders) {
    embedder->Check(batch.data);
  }
}

// The model must be what its metadata say; without metadata nothing can be compared.
void CheckMetadata(const Embedder &embedder, const Metadata &metadata, const std::string &model) {
  if (metadata.found && embedder.image_floats() != metadata.image_floats()) {
    throw Error(model + ": takes " + std::to_string(embedder.image_floats()) + " numbers an image, its metadata say " +
                std::to_string(metadata.image_floats()) + "; export it again");
  }
  if (metadata.found && embedder.feature_floats() != metadata.embedding_size) {
    throw Error(model + ": gives embeddings of " + std::to_string(embedder.feature_floats()) +
                " numbers, its metadata say " + std::to_string(metadata.embedding_size) + "; export it again");
  }
}

}  // namespace

Outcome EmbedAll(const Options &options, const std::vector<Image> &images, const Loader &load,
                 const Metadata &metadata) {
  // On the CPU several models of one thread each: faster than one model of many threads, which MindSpore Lite 2.0
  // moreover computes wrongly after a change of the batch size. A card has one queue.
  const size_t num_workers = options.device_target == "CPU" ? static_cast<size_t>(options.threads) : 1;
  std::vector<std::unique_ptr<Embedder>> embedders;
  for (size_t i = 0; i < num_workers; ++i) {
    embedders.push_back(std::make_unique<Embedder>(options));
  }
  CheckAll(embedders, load, images);
  CheckMetadata(*embedders[0], metadata, options.mindir_path);
  Work work(load, images, *embedders[0], num_workers);
  std::vector<std::thread> threads;
  for (auto &embedder : embedders) {
    threads.emplace_back([&work, &embedder] { work.Do(embedder.get()); });
  }
  for (std::thread &thread : threads) {
    thread.join();
  }
  return work.Finish();
}
