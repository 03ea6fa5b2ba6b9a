// The page's words in its three languages, and which of them is shown.

const TEXTS = {
  en: {
    dialogues: "Chats", dialogue: "Chat", newDialogue: "New chat", noDialogues: "No chats yet.",
    deleteAll: "Delete all chats", deleteAllTitle: "Delete all chats?",
    deleteAllHelp: "All chats and images on this page are deleted from this browser. This cannot be undone.",
    deleteOne: "Delete this chat", kept: "Chats are kept in this browser only.",
    language: "Language", theme: "Theme", themeAuto: "As the system", themeLight: "Light", themeDark: "Dark",
    model: "Model", settings: "Settings", images: "Images of this chat", image: "Image", start: "Start",
    greeting: "Ask about an image", about: "In English or Chinese. Add an image below, paste one, or drop it anywhere.",
    badge: "miniature",
    miniature: "This is the small model packed with VisualGLM, for trying it out. It knows emoji, icons, simple drawings and, less surely, single things in photographs. For photographs, start the server with --model and VisualGLM-6B.",
    attached: "Images of the next question", question: "Question", ask: "Ask about the image", askMore: "Ask more",
    attach: "Add images", camera: "Take a photo", shoot: "Take the photo", send: "Send", stop: "Stop",
    remove: "Remove image", retry: "Another answer", tryAgain: "Try again", edit: "Edit the question", copy: "Copy",
    copied: "Copied.", cancel: "Cancel", close: "Close", done: "Done", reset: "Reset",
    editing: "You are editing a question. What follows it will be replaced.",
    dropHere: "Drop images here", mistakes: "Answers may be wrong. Check what matters.",
    you: "You", answering: "The answer is being written.", stopped: "Stopped.",
    cut: "The answer reached its length limit. A longer one can be set in the settings.",
    emptyQuestion: "Write a question first.", waitOrStop: "An answer is being written. Wait for its end, or stop it.",
    explain: "Explain", explainTitle: "What the answer rests on", explaining: "The explanation is being computed.",
    words: "Words of the answer", wholeAnswer: "Whole answer", weak: "little", strong: "much",
    deletion: "Deletion curve: {area} nats per token, 95 % interval [{low}, {high}].",
    holds: "Hiding the bright parts makes this less likely than hiding random parts.",
    noBetter: "This map explains no better than chance. Do not draw conclusions from it.",
    greedy: "At temperature 0 the answer is always the same. Raise the temperature in the settings for another one.",
    same: "The same answer was drawn again. A higher temperature varies more.",
    temperature: "Temperature", temperatureHelp: "0 always gives the most likely answer; higher values vary more.",
    topP: "Top-p", topPHelp: "Sample only from the most likely tokens that reach this probability together.",
    topK: "Top-k", topKHelp: "Sample only from this many of the most likely tokens; 0 is no limit.",
    maxTokens: "Maximum length", maxTokensHelp: "Tokens in one answer.",
    seed: "Seed", seedHelp: "The same seed gives the same answer to the same question.",
    fromServer: "server default", random: "random", keyTitle: "This server needs a key", key: "API key", useKey: "Use this key",
    keyHelp: "The key is kept in this tab until you close it.",
    errors: {
      offline: "The server cannot be reached. Your question is kept; send it again when the server is back.",
      cut: "The connection was lost before the answer ended.",
      key: "The server needs a key, or the key is wrong.",
      busy: "The server is busy. Wait a moment and try again.",
      image: "The server could not read the image. The file is broken, cut short, or of an unknown kind.",
      long: "The question is too long for the model. Shorten it and send it again.",
      large: "The question and its images are too large. Use fewer or smaller images.",
      model: "This model is no longer on the server. Choose another one.",
      server: "The server failed to answer. Try again, or look at the server's log.",
      unexplained: "This server cannot explain answers.",
      other: "The server refused the question.",
    },
    imageErrors: {
      heic: "is a HEIC photo, which this browser cannot open. Save it as JPEG first.",
      broken: "cannot be opened. The file is broken, or this browser does not know its format.",
      kind: "is not an image.",
      many: "was not added: a question may have 16 images.",
    },
    noCamera: "The camera cannot be used. Allow it in the browser, or add a file.",
    notKept: "This browser does not let the page keep chats. They are lost when you close it.",
    examples: { moon: "What is in the picture?", house: "Describe this picture.", star: "What is in the picture?", circles: "How many objects are there?" },
  },
  "zh-CN": {
    dialogues: "对话", dialogue: "对话", newDialogue: "新对话", noDialogues: "还没有对话。",
    deleteAll: "删除全部对话", deleteAllTitle: "删除全部对话？",
    deleteAllHelp: "将从此浏览器中删除本页的全部对话和图片，无法恢复。",
    deleteOne: "删除此对话", kept: "对话只保存在此浏览器中。",
    language: "语言", theme: "主题", themeAuto: "跟随系统", themeLight: "浅色", themeDark: "深色",
    model: "模型", settings: "设置", images: "此对话的图片", image: "图片", start: "开始",
    greeting: "就图片提问", about: "中文或英文均可。在下方添加图片、粘贴，或拖放到任意位置。",
    badge: "小模型",
    miniature: "这是 VisualGLM 内置的小模型，供试用。它认识表情符号、图标和简单的图画，也认识照片中的一部分常见事物，但不太可靠。处理照片请用 --model 指定 VisualGLM-6B 启动服务。",
    attached: "下一个问题的图片", question: "问题", ask: "就图片提问", askMore: "继续提问",
    attach: "添加图片", camera: "拍照", shoot: "拍摄", send: "发送", stop: "停止",
    remove: "移除图片", retry: "换一个回答", tryAgain: "重试", edit: "修改问题", copy: "复制",
    copied: "已复制。", cancel: "取消", close: "关闭", done: "完成", reset: "恢复默认",
    editing: "正在修改问题，其后的内容将被替换。",
    dropHere: "将图片拖放到这里", mistakes: "回答可能有误，重要的内容请核实。",
    you: "你", answering: "正在回答。", stopped: "已停止。",
    cut: "回答达到了长度上限，可在设置中调高。",
    emptyQuestion: "请先写下问题。", waitOrStop: "正在回答，请等待结束或停止它。",
    explain: "解释", explainTitle: "回答的依据", explaining: "正在计算解释。",
    words: "回答中的词", wholeAnswer: "整个回答", weak: "弱", strong: "强",
    deletion: "删除曲线：{area} nat/词元，95% 区间 [{low}, {high}]。",
    holds: "遮住明亮的部分，比遮住随机的部分更能降低它的概率。",
    noBetter: "这张图并不比随机更能解释回答，请不要据此下结论。",
    greedy: "温度为 0 时回答总是相同。想要不同的回答，请在设置中调高温度。",
    same: "又抽到了相同的回答。温度越高，变化越多。",
    temperature: "温度", temperatureHelp: "0 总是给出最可能的回答；越高变化越多。",
    topP: "Top-p", topPHelp: "只在概率合计达到此值的最可能词元中采样。",
    topK: "Top-k", topKHelp: "只在这么多个最可能的词元中采样；0 表示不限。",
    maxTokens: "最大长度", maxTokensHelp: "一个回答的词元数。",
    seed: "随机种子", seedHelp: "种子相同，同一问题的回答也相同。",
    fromServer: "服务器默认值", random: "随机", keyTitle: "此服务器需要密钥", key: "API 密钥", useKey: "使用此密钥",
    keyHelp: "密钥只保存在此标签页中，关闭后即失效。",
    errors: {
      offline: "无法连接服务器。问题已保留，服务器恢复后请重新发送。",
      cut: "回答结束前连接中断了。",
      key: "服务器需要密钥，或密钥不正确。",
      busy: "服务器正忙，请稍候再试。",
      image: "服务器无法读取图片：文件已损坏、不完整，或格式未知。",
      long: "问题太长，超出了模型的长度。请缩短后重新发送。",
      large: "问题和图片太大，请减少或缩小图片。",
      model: "服务器上已没有这个模型，请另选一个。",
      server: "服务器未能回答。请重试，或查看服务器日志。",
      unexplained: "此服务器不支持解释回答。",
      other: "服务器拒绝了这个问题。",
    },
    imageErrors: {
      heic: "是 HEIC 照片，此浏览器无法打开。请先另存为 JPEG。",
      broken: "无法打开：文件已损坏，或此浏览器不认识其格式。",
      kind: "不是图片。",
      many: "没有添加：一个问题最多 16 张图片。",
    },
    noCamera: "无法使用摄像头。请在浏览器中允许，或添加文件。",
    notKept: "此浏览器不允许本页保存对话，关闭后对话会丢失。",
    examples: { moon: "这张图片里有什么？", house: "描述这张图片。", star: "这张图片里有什么？", circles: "一共有几个物体？" },
  },
  "zh-TW": {
    dialogues: "對話", dialogue: "對話", newDialogue: "新對話", noDialogues: "還沒有對話。",
    deleteAll: "刪除全部對話", deleteAllTitle: "刪除全部對話？",
    deleteAllHelp: "將從此瀏覽器中刪除本頁的全部對話和圖片，無法復原。",
    deleteOne: "刪除此對話", kept: "對話只儲存在此瀏覽器中。",
    language: "語言", theme: "主題", themeAuto: "跟隨系統", themeLight: "淺色", themeDark: "深色",
    model: "模型", settings: "設定", images: "此對話的圖片", image: "圖片", start: "開始",
    greeting: "就圖片提問", about: "中文或英文皆可。在下方加入圖片、貼上，或拖放到任意位置。",
    badge: "小模型",
    miniature: "這是 VisualGLM 內建的小模型，供試用。它認得表情符號、圖示和簡單的圖畫，也認得照片中的一部分常見事物，但不太可靠。處理照片請用 --model 指定 VisualGLM-6B 啟動服務。",
    attached: "下一個問題的圖片", question: "問題", ask: "就圖片提問", askMore: "繼續提問",
    attach: "加入圖片", camera: "拍照", shoot: "拍攝", send: "傳送", stop: "停止",
    remove: "移除圖片", retry: "換一個回答", tryAgain: "重試", edit: "修改問題", copy: "複製",
    copied: "已複製。", cancel: "取消", close: "關閉", done: "完成", reset: "恢復預設",
    editing: "正在修改問題，其後的內容將被取代。",
    dropHere: "將圖片拖放到這裡", mistakes: "回答可能有誤，重要的內容請查證。",
    you: "你", answering: "正在回答。", stopped: "已停止。",
    cut: "回答達到了長度上限，可在設定中調高。",
    emptyQuestion: "請先寫下問題。", waitOrStop: "正在回答，請等待結束或停止它。",
    explain: "解釋", explainTitle: "回答的依據", explaining: "正在計算解釋。",
    words: "回答中的詞", wholeAnswer: "整個回答", weak: "弱", strong: "強",
    deletion: "刪除曲線：{area} nat/詞元，95% 區間 [{low}, {high}]。",
    holds: "遮住明亮的部分，比遮住隨機的部分更能降低它的機率。",
    noBetter: "這張圖並不比隨機更能解釋回答，請不要據此下結論。",
    greedy: "溫度為 0 時回答總是相同。想要不同的回答，請在設定中調高溫度。",
    same: "又抽到了相同的回答。溫度越高，變化越多。",
    temperature: "溫度", temperatureHelp: "0 總是給出最可能的回答；越高變化越多。",
    topP: "Top-p", topPHelp: "只在機率合計達到此值的最可能詞元中取樣。",
    topK: "Top-k", topKHelp: "只在這麼多個最可能的詞元中取樣；0 表示不限。",
    maxTokens: "最大長度", maxTokensHelp: "一個回答的詞元數。",
    seed: "隨機種子", seedHelp: "種子相同，同一問題的回答也相同。",
    fromServer: "伺服器預設值", random: "隨機", keyTitle: "此伺服器需要金鑰", key: "API 金鑰", useKey: "使用此金鑰",
    keyHelp: "金鑰只儲存在此分頁中，關閉後即失效。",
    errors: {
      offline: "無法連線到伺服器。問題已保留，伺服器恢復後請重新傳送。",
      cut: "回答結束前連線中斷了。",
      key: "伺服器需要金鑰，或金鑰不正確。",
      busy: "伺服器忙碌中，請稍候再試。",
      image: "伺服器無法讀取圖片：檔案已損壞、不完整，或格式不明。",
      long: "問題太長，超出了模型的長度。請縮短後重新傳送。",
      large: "問題和圖片太大，請減少或縮小圖片。",
      model: "伺服器上已沒有這個模型，請另選一個。",
      server: "伺服器未能回答。請重試，或查看伺服器紀錄。",
      unexplained: "此伺服器不支援解釋回答。",
      other: "伺服器拒絕了這個問題。",
    },
    imageErrors: {
      heic: "是 HEIC 照片，此瀏覽器無法開啟。請先另存為 JPEG。",
      broken: "無法開啟：檔案已損壞，或此瀏覽器不認得其格式。",
      kind: "不是圖片。",
      many: "沒有加入：一個問題最多 16 張圖片。",
    },
    noCamera: "無法使用攝影機。請在瀏覽器中允許，或加入檔案。",
    notKept: "此瀏覽器不允許本頁儲存對話，關閉後對話會遺失。",
    examples: { moon: "這張圖片裡有什麼？", house: "描述這張圖片。", star: "這張圖片裡有什麼？", circles: "一共有幾個物體？" },
  },
};

let shown = "en";

/** The text of a key such as "send" or "errors.busy" in the page's language. */
export const text = (key) => key.split(".").reduce((found, name) => found?.[name], TEXTS[shown]);

/** The language for what a browser prefers, in its order: traditional Chinese, simplified Chinese, or English. */
export function preferredLanguage(languages) {
  for (const name of languages) {
    if (/^zh\b.*(hant|tw|hk|mo)/i.test(name)) return "zh-TW";
    if (/^zh\b/i.test(name)) return "zh-CN";
    if (/^en\b/i.test(name)) return "en";
  }
  return "en";
}

/** Show the page in a language: elements with data-text get their text, with data-label their name and tooltip. */
export function setLanguage(language) {
  shown = TEXTS[language] ? language : "en";
  document.documentElement.lang = shown;
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = text(element.dataset.text);
  for (const element of document.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", text(element.dataset.label));
    if (element.tagName === "BUTTON") element.title = text(element.dataset.label);
  }
}
